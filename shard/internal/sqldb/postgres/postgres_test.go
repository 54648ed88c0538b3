package postgres

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

func TestText(t *testing.T) {
	require.Equal(t, "a $1 b $2", New().Bind("a ? b ?"))
	require.Len(t, splitSchema(schema), 18)
	require.True(t, strings.HasPrefix(New().SlotList([]sqldb.Slot{1, 2}), "{1,2"))
}
