package shard

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/shard/internal/testdb"
)

// Each mutation of a valid configuration is an error that names the field, or is harmless: then keys are routed as
// without it.
func TestOptionMutations(t *testing.T) {
	sh := fakeShards(t, 2)
	valid := Options{Refresh: time.Second, MapTTL: 3 * time.Second, Retry: time.Second}
	base := router(t, 2, valid)
	for _, m := range []struct {
		field string // named by the error; "": harmless
		mute  func(o *Options)
	}{
		{"Options.Slots", func(o *Options) { o.Slots = 100 }},
		{"Options.Slots", func(o *Options) { o.Slots = -16384 }},
		{"Options.Slots", func(o *Options) { o.Slots = 1 << 21 }},
		{"", func(o *Options) { o.Slots = 16384 }},
		{"Options.Placement", func(o *Options) { o.Placement = Modulo(5) }},
		{"Options.Placement", func(o *Options) { o.Placement = Modulo(0) }},
		{"Options.Slots", func(o *Options) { o.Placement, o.Slots = Modulo(2), 64 }},
		{"Options.Placement", func(o *Options) { o.Placement = Range(0) }},
		{"Options.Placement", func(o *Options) { o.Placement = Range(-7) }},
		{"", func(o *Options) { o.Placement = Hash() }},
		{"Options.MapTTL", func(o *Options) { o.MapTTL = -1 }},
		{"Options.MapTTL", func(o *Options) { o.MapTTL = time.Second }},
		{"Options.MapTTL", func(o *Options) { o.Refresh = 3 * time.Second }},
		{"", func(o *Options) { o.Refresh = -1 }},
		{"Options.Retry", func(o *Options) { o.Retry = -1 }},
		{"", func(o *Options) { o.HotKeys = -1 }},
		{"", func(o *Options) { o.Hooks = &Hooks{} }},
		{"Options.Dialect", func(o *Options) { o.Tables = []Table{{Name: "t", Key: []string{"id"}}} }},
		{"Options.Tables[0]", func(o *Options) { o.Tables = []Table{{}} }},
		{"Options.Tables[0]", func(o *Options) { o.Tables = []Table{{Name: "t"}} }},
		{"Options.Tables[0].Name", func(o *Options) { o.Tables = []Table{{Name: "t; drop", Key: []string{"id"}}} }},
		{"Options.Tables[1].Name", func(o *Options) {
			o.Tables = []Table{{Name: "t", Key: []string{"id"}}, {Name: "T", Key: []string{"id"}}}
		}},
		{"Options.Tables[0].Key", func(o *Options) { o.Tables = []Table{{Name: "t", Key: []string{"id", "id"}}} }},
		{"Options.Tables[0].By", func(o *Options) {
			o.Tables = []Table{{Name: "t", Key: []string{"id"}, By: []string{""}}}
		}},
	} {
		o := valid
		m.mute(&o)
		c, err := New(t.Context(), MemoryStore(), sh, o)
		if m.field != "" {
			require.ErrorContains(t, err, m.field)
			continue
		}
		require.NoError(t, err)
		for id := range int64(1000) {
			require.Equal(t, base.Map().Owner(base.Slot(Int(id))), c.Map().Owner(c.Slot(Int(id))))
		}
		require.NoError(t, c.Close())
	}
	for field, shards := range map[string][]Shard{"shards": nil, "Shard.DB": {{ID: "a"}}, "Shard.ID": {{DB: sh[0].DB}},
		"Shard.Weight": {{ID: "a", DB: sh[0].DB, Weight: math.NaN()}}, "two shards": {sh[0], sh[0]}} {
		_, err := New(t.Context(), MemoryStore(), shards, valid)
		require.ErrorContains(t, err, field)
	}
	_, err := New(t.Context(), nil, sh, valid)
	require.ErrorContains(t, err, "store")
}

// A stored map of another placement or number of slots is refused, naming both.
func TestStoredMapDecides(t *testing.T) {
	sh := fakeShards(t, 2)
	for _, have := range []Placement{Hash(), Modulo(2), Range(30), Directory()} {
		store := MemoryStore()
		first, err := New(t.Context(), store, sh, Options{Placement: have})
		require.NoError(t, err)
		require.NoError(t, first.Close())
		for _, want := range []Placement{Hash(), Modulo(2), Range(30), Range(31), Directory()} {
			c, err := New(t.Context(), store, sh, Options{Placement: want})
			if want == have {
				require.NoError(t, err)
				require.NoError(t, c.Close())
				continue
			}
			require.ErrorContains(t, err, have.String())
			require.ErrorContains(t, err, "Options.Placement is "+want.String())
		}
		c, err := New(t.Context(), store, sh, Options{})
		require.NoError(t, err, "zero is the stored map's")
		require.NoError(t, c.Close())
	}
	store := MemoryStore()
	c, err := New(t.Context(), store, sh, Options{Slots: 64})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, err = New(t.Context(), store, sh, Options{Slots: 128})
	require.ErrorContains(t, err, "Options.Slots is 128, the stored map has 64")
	_, err = New(t.Context(), store, sh[:1], Options{})
	require.ErrorIs(t, err, ErrUnknownShard)
	require.ErrorIs(t, c.Do(t.Context(), Int(1), nil), ErrClosed)
}

func TestMoveOptionMutations(t *testing.T) {
	w := newWorld(t, testdb.SQLite(t), 2, 64, 0)
	for field, o := range map[string]MoveOptions{"Group": {Group: -1}, "Chunk": {Chunk: -1},
		"RowsPerSecond": {RowsPerSecond: -1}, "LockTimeout": {LockTimeout: -1}} {
		_, err := w.c.Move(t.Context(), w.plan(t.Context()), o)
		require.ErrorContains(t, err, "MoveOptions."+field)
	}
}
