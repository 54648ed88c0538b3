package shard

import (
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Shard is one database.
type Shard struct {
	ID ID
	// DB may be any *sql.DB, one of a replica.Cluster included. The cluster does not close it.
	DB *sql.DB
	// Weight is the share of slots relative to the others in a new map. Zero means 1; negative means none.
	Weight float64
}

// Table is a table whose rows are sharded: it has the slot of its row in an integer column, with an index on (slot,
// key).
type Table struct {
	// Name as written in SQL. Required.
	Name string
	// Key is the primary key. Required.
	Key []string
	// By are the columns of the sharding key, in the order of Composite. Empty means Key. Only pins need them.
	By []string
	// SlotColumn is the name of the column. Empty means "slot".
	SlotColumn string
}

// Options configure a Cluster.
type Options struct {
	// Dialect of the shards. It is required for moves, and for Tx to be exact during them; routing alone works without.
	Dialect Dialect
	// Tables move with their slots; those that others refer to come first.
	Tables []Table
	// Slots is the number of hashed slots, a power of two up to 2^20. Zero means the stored map's, and in a new map
	// 16384. Another number than the stored map's is an error.
	Slots int
	// Placement is how keys find their slots. Zero means the stored map's, and in a new map Hash. Another one than the
	// stored map's is an error.
	Placement Placement
	// Refresh is how often the map is read again. Zero means 1 s; negative means only when an attempt is refused. A
	// stale map costs a retry, never correctness.
	Refresh time.Duration
	// MapTTL is how long Do and DoMany act on the map without asking the shard, from the last time the store confirmed
	// it; after that they ask, which costs a round trip. A move waits for the longest MapTTL of all processes: before
	// it fences a slot that it has just announced, and before it deletes rows that were handed over. Zero means twice
	// Refresh, at least 2 s. It must be longer than Refresh.
	MapTTL time.Duration
	// Retry bounds how long Do and Tx go on retrying while a fence refuses. Zero means 5 s.
	Retry time.Duration
	// HotKeys is the number of counters of the hot-key sketch per shard. Zero means 4096; negative switches it off.
	HotKeys int
	// Hooks observe. nil costs nothing.
	Hooks *Hooks
	// Logger gets a warning, at most once a minute and cause, when the map cannot be read, a watch fails, or a step of
	// a job fails and is repeated. nil means slog.Default().
	Logger *slog.Logger
}

// withDefaults checks the options for so many shards and fills in what is zero, but for Slots and Placement, which a
// stored map decides.
func (o Options) withDefaults(shards int) (Options, error) {
	if shards == 0 {
		return o, errors.New("shard: shards is empty")
	}
	if err := o.Placement.check(o.Slots, shards); err != nil {
		return o, err
	}
	tables, err := checkTables(o.Tables)
	if err != nil {
		return o, err
	}
	o.Tables = tables
	if len(o.Tables) > 0 && o.Dialect.db == nil {
		return o, errors.New("shard: Options.Tables without Options.Dialect")
	}
	if o.Refresh == 0 {
		o.Refresh = time.Second
	}
	if o.MapTTL == 0 {
		o.MapTTL = max(2*o.Refresh, 2*time.Second)
	}
	if o.MapTTL <= max(o.Refresh, 0) {
		return o, fmt.Errorf("shard: Options.MapTTL %v is not longer than Options.Refresh %v", o.MapTTL, o.Refresh)
	}
	if o.Retry < 0 {
		return o, fmt.Errorf("shard: Options.Retry %v is negative", o.Retry)
	}
	if o.Retry == 0 {
		o.Retry = 5 * time.Second
	}
	if o.HotKeys == 0 {
		o.HotKeys = 4096
	}
	return o, nil
}

// checkTables returns a copy of the tables with their defaults filled in.
func checkTables(tables []Table) ([]Table, error) {
	tables = slices.Clone(tables)
	seen := map[string]bool{}
	for i := range tables {
		t := &tables[i]
		if t.Name == "" || len(t.Key) == 0 {
			return nil, fmt.Errorf("shard: Options.Tables[%d] needs a Name and a Key", i)
		}
		if strings.Contains(t.Name, ";") || seen[strings.ToLower(t.Name)] {
			return nil, fmt.Errorf("shard: Options.Tables[%d].Name %q is no table's name, or there twice", i, t.Name)
		}
		seen[strings.ToLower(t.Name)] = true
		for name, columns := range map[string][]string{"Key": t.Key, "By": t.By} {
			sorted := slices.Sorted(slices.Values(columns))
			if slices.Contains(columns, "") || len(slices.Compact(sorted)) != len(columns) {
				return nil, fmt.Errorf("shard: Options.Tables[%d].%s %q has an empty column or one twice", i, name,
					columns)
			}
		}
		if len(t.By) == 0 {
			t.By = t.Key
		}
		if t.SlotColumn == "" {
			t.SlotColumn = "slot"
		}
	}
	return tables, nil
}
