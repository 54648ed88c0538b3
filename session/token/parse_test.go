package token

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What the fast reader of JWT payloads accepts, encoding/json reads in the same sense.
func FuzzFlatClaims(f *testing.F) {
	for _, s := range []string{`{"sub":"a","exp":5}`,
		`{"sub":"a","x":"y","aud":"z","iat":1,"nbf":0,"jti":"","sid":"s","iss":"i"}`, `{"exp":01}`, `{"a":"b","a":"c"}`,
		`{"aud":["a"]}`} {
		f.Add(s)
	}
	a := &Authority{}
	f.Fuzz(func(t *testing.T, s string) {
		fast, ok := flatClaims(s)
		if !ok {
			return
		}
		slow, err := a.jwtClaims([]byte(s))
		require.NoError(t, err, s)
		require.Equal(t, slow, fast, s)
	})
}

// A payload of the compact format that parses is the one that its claims would be written as.
func FuzzCompactPayload(f *testing.F) {
	for _, s := range []string{"1~2~3~a~b~c~d~e", "~~~~~~~", "1~~3~~~+7e~~~n~v~m~", "1~2~3~a"} {
		f.Add(s)
	}
	k, err := newKey(Key{ID: "k", Secret: make([]byte, 32)}, "JWT")
	require.NoError(f, err)
	a := &Authority{}
	f.Fuzz(func(t *testing.T, s string) {
		var c Claims
		if a.parseCompact(s, &c) != nil {
			return
		}
		for _, at := range []time.Time{c.IssuedAt, c.NotBefore, c.Expires} {
			require.True(t, at.IsZero() || at.Unix() >= 0)
		}
		_, err := signCompact(k, domainAccess, &c)
		require.NoError(t, err)
	})
}
