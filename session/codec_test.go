package session

import (
	"encoding/json"
	"math"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

type inner struct {
	A int `json:"a"`
	B *inner
}

type everything struct {
	Bool   bool
	Int    int
	Small  int8
	Uint   uint64
	Float  float64
	Text   string
	Blob   []byte
	List   []string
	Array  [3]int16
	Map    map[string]int
	ByNum  map[int][]inner
	Nested inner
	Ptr    *string
	When   time.Time
	Skip   string `json:"-"`
	hidden int
}

func roundtrip[T any](t require.TestingT, in T) T {
	c := newCodec[T](false)
	require.NotNil(t, c.plan)
	b, err := c.append(nil, &in)
	require.NoError(t, err)
	out, err := c.decode(codecCompact, b)
	require.NoError(t, err)
	return out
}

func TestCompactKeepsEverything(t *testing.T) {
	s := "x"
	in := everything{true, -5, -128, math.MaxUint64, -1.5, "ünï", []byte{0, 255}, []string{"a", ""}, [3]int16{1, 0, -3},
		map[string]int{"a": 1, "": -2},
		map[int][]inner{-1: {{A: 1}}, 2: {}}, inner{7, &inner{8, nil}}, &s, time.Now().Round(0), "", 0}
	require.Equal(t, in, roundtrip(t, in))
	require.Equal(t, everything{}, roundtrip(t, everything{}))
	require.Equal(t, []string{}, roundtrip(t, everything{List: []string{}}).List)
	require.Equal(t, 5, roundtrip(t, 5))
	require.Equal(t, map[string]string{"a": "b"}, roundtrip(t, map[string]string{"a": "b"}))
}

func TestCompactEvolves(t *testing.T) {
	type v1 struct {
		Gone, Name string
		Changed    string
		N          int64
	}
	type v2 struct {
		New     []int
		N       int8
		Changed int
		Name    string
	}
	b, err := newCodec[v1](false).append(nil, &v1{"x", "ada", "text", 3})
	require.NoError(t, err)
	out, err := newCodec[v2](false).decode(codecCompact, b)
	require.NoError(t, err)
	require.Equal(t, v2{N: 3, Name: "ada"}, out)
	out, err = newCodec[v2](true).decode(codecCompact, b)
	require.NoError(t, err, "a program that writes JSON now still reads it")
	require.Equal(t, "ada", out.Name)
}

func TestTypesThatEncodeThemselvesAreJSON(t *testing.T) {
	type odd struct{ V any }
	for _, c := range []struct {
		id byte
	}{{newCodec[odd](false).id()}, {newCodec[struct{ R json.RawMessage }](false).id()},
		{newCodec[struct{ F func() }](false).id()}, {newCodec[everything](true).id()}} {
		require.EqualValues(t, codecJSON, c.id)
	}
	require.EqualValues(t, codecCompact, newCodec[everything](false).id())
}

func TestCompactRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := everything{Int: rapid.Int().Draw(t, "int"), Text: rapid.String().Draw(t, "text"),
			List:  rapid.SliceOfN(rapid.String(), 1, 5).Draw(t, "list"),
			Map:   rapid.MapOfN(rapid.String(), rapid.Int(), 1, 5).Draw(t, "map"),
			Float: rapid.Float64().Draw(t, "float")}
		require.True(t, reflect.DeepEqual(in, roundtrip(t, in)))
	})
}

func FuzzCompact(f *testing.F) {
	c := newCodec[everything](false)
	b, _ := c.append(nil, &everything{Text: "a", List: []string{"b"}, Map: map[string]int{"c": 1},
		Nested: inner{1, &inner{}}, When: time.Unix(1, 0)})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = c.decode(codecCompact, b)
		r := Record{Data: b}
		if len(b) > 18 {
			copy(r.Key[:], b[2:18])
		}
		_, _ = decodeFrame(b, &r)
	})
}

// The reader of the Cookie header finds what net/http finds, for values that this package writes; it takes no token
// that it would not write itself.
func FuzzCookieHeader(f *testing.F) {
	f.Add("__Host-session=" + newToken().String())
	f.Add("a=b; __Host-session=x;__Host-session=y")
	f.Add("__Host-session ; =; __Host-session=")
	f.Fuzz(func(t *testing.T, header string) {
		v := cookieValue(http.Header{"Cookie": {header}}, "__Host-session")
		if tok, ok := parseToken(v); ok {
			require.Equal(t, v, tok.String())
			r := http.Request{Header: http.Header{"Cookie": {header}}}
			found := false
			for _, c := range r.CookiesNamed("__Host-session") {
				found = found || c.Value == v
			}
			require.True(t, found, header)
		}
	})
}
