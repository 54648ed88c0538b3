package sqltable

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStatement(t *testing.T) {
	const q = "UPDATE {t} SET a = ? WHERE b = ? AND c IN (?, ?) -- {t}"
	require.Equal(t, "UPDATE x SET a = ? WHERE b = ? AND c IN (?, ?) -- x", Statement(q, "x", false))
	require.Equal(t, "UPDATE x SET a = $1 WHERE b = $2 AND c IN ($3, $4) -- x", Statement(q, "x", true))
	require.Equal(t, "DELETE FROM x", Statement("DELETE FROM {t}", "x", true))
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"sessions", "_a1", "A"} {
		require.NoError(t, CheckName(good))
	}
	for _, bad := range []string{"", "1a", "a b", "a;drop", "a.b", "ä", string(make([]byte, 70))} {
		require.ErrorContains(t, CheckName(bad), "table")
	}
}
