package shard

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
	"github.com/tierkit/tierkit/shard/internal/stored"
)

// State is the stored form of a Map and of the move in progress. A MapStore keeps its JSON form, which is all of it,
// and compares its epoch. It is not modified after it was stored or loaded.
type State struct{ in stored.State }

// Epoch rises by one with every stored change.
func (s *State) Epoch() uint64 { return s.in.Epoch }

// MarshalJSON implements json.Marshaler.
func (s *State) MarshalJSON() ([]byte, error) { return json.Marshal(&s.in) }

// UnmarshalJSON implements json.Unmarshaler.
func (s *State) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &s.in) }

// A MapStore keeps the State. Implementations are safe for concurrent use. Load sees every CompareAndSwap that returned
// before it was called, or else the store is a Stale one. Package shardtest has the conformance suite.
type MapStore interface {
	// Load returns the state, or ErrNoMap when there is none yet.
	Load(ctx context.Context) (*State, error)
	// CompareAndSwap stores next if the stored epoch is old (0: none stored), else it returns ErrConflict. It must be
	// durable when it returns nil. Any other error leaves open whether next was stored.
	CompareAndSwap(ctx context.Context, old uint64, next *State) error
}

// Stale is a MapStore whose Load may miss changes that are younger than Staleness. Options.MapTTL must be longer, and
// counts from that much earlier.
type Stale interface{ Staleness() time.Duration }

// Watcher is a MapStore that reports changes, so that they are known sooner than after Options.Refresh. Watch calls
// changed after each, until ctx ends or it fails; it is then called again.
type Watcher interface {
	Watch(ctx context.Context, changed func()) error
}

// epocher is a MapStore that can tell the epoch for less than a Load.
type epocher interface {
	Epoch(ctx context.Context) (uint64, error)
}

// MemoryStore keeps the state in this process, for tests and for shards that live in it.
func MemoryStore() MapStore { return &memoryStore{} }

type memoryStore struct {
	mu sync.Mutex // guards st
	st *State
}

func (m *memoryStore) Load(context.Context) (*State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.st == nil {
		return nil, ErrNoMap
	}
	return m.st, nil
}

func (m *memoryStore) epoch() uint64 {
	if m.st == nil {
		return 0
	}
	return m.st.Epoch()
}

func (m *memoryStore) Epoch(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch(), nil
}

func (m *memoryStore) CompareAndSwap(_ context.Context, old uint64, next *State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch() != old {
		return ErrConflict
	}
	m.st = next
	return nil
}

// SQLStore keeps the state as one row of the table tk_map in db, which it creates. Reads run in write transactions, so
// db may be a replica.Cluster.
func SQLStore(db *sql.DB, d Dialect) MapStore { return &sqlStore{db: db, d: d.db} }

type sqlStore struct {
	db   *sql.DB
	d    sqldb.Dialect
	mu   sync.Mutex // guards made
	made bool
}

const (
	mapTable    = `tk_map (id integer primary key, epoch bigint not null, state {text} not null)`
	selectMap   = `select state from tk_map where id = 1`
	selectEpoch = `select epoch from tk_map where id = 1`
	insertMap   = `insert into tk_map (id, epoch, state) values (1, ?, ?) on conflict (id) do nothing`
	updateMap   = `update tk_map set epoch = ?, state = ? where id = 1 and epoch = ?`
)

func (s *sqlStore) make(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made {
		return nil
	}
	if s.d == nil {
		return errors.New("shard: SQLStore needs a Dialect")
	}
	if err := sqldb.CreateTable(ctx, s.db, sqldb.Fill(mapTable, "text", s.d.LongText())); err != nil {
		return fmt.Errorf("shard: create tk_map: %w", err)
	}
	s.made = true
	return nil
}

func (s *sqlStore) inTx(ctx context.Context, f func(tx *sql.Tx) error) error {
	if err := s.make(ctx); err != nil {
		return err
	}
	return sqldb.InTx(ctx, s.db, f)
}

func (s *sqlStore) Load(ctx context.Context) (*State, error) {
	var text string
	err := s.inTx(ctx, func(tx *sql.Tx) error { return tx.QueryRowContext(ctx, selectMap).Scan(&text) })
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoMap
	}
	if err != nil {
		return nil, fmt.Errorf("shard: load map: %w", err)
	}
	st := new(State)
	if err := json.Unmarshal([]byte(text), st); err != nil {
		return nil, fmt.Errorf("shard: load map: %w", err)
	}
	return st, nil
}

func (s *sqlStore) Epoch(ctx context.Context) (epoch uint64, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error { return tx.QueryRowContext(ctx, selectEpoch).Scan(&epoch) })
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return epoch, err
}

func (s *sqlStore) CompareAndSwap(ctx context.Context, old uint64, next *State) error {
	text, err := json.Marshal(next)
	if err != nil {
		return err
	}
	return s.inTx(ctx, func(tx *sql.Tx) error {
		var res sql.Result
		if old == 0 {
			res, err = tx.ExecContext(ctx, s.d.Bind(insertMap), int64(next.Epoch()), string(text))
		} else {
			res, err = tx.ExecContext(ctx, s.d.Bind(updateMap), int64(next.Epoch()), string(text), int64(old))
		}
		if err != nil {
			return fmt.Errorf("shard: store map: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(ErrConflict, err)
		}
		return nil
	})
}

// load reads the state from the store.
func (c *Cluster) load(ctx context.Context) (*stored.State, error) {
	st, err := c.store.Load(ctx)
	if err != nil {
		return nil, err
	}
	return &st.in, nil
}

// swap stores next if the stored epoch is old.
func (c *Cluster) swap(ctx context.Context, old uint64, next *stored.State) error {
	return c.store.CompareAndSwap(ctx, old, &State{*next})
}

// openMap loads the map or makes the first one, and stores this process's MapTTL in it if it is the longest.
func (c *Cluster) openMap(ctx context.Context, shards []Shard) (*stored.State, error) {
	for {
		st, err := c.load(ctx)
		old, next := uint64(0), (*stored.State)(nil)
		switch {
		case errors.Is(err, ErrNoMap):
			if next, err = firstState(shards, &c.opts); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		default:
			if err := c.opts.fits(st); err != nil {
				return nil, err
			}
			if st.Lease >= c.opts.MapTTL {
				return st, nil
			}
			old, next = st.Epoch, st.Next()
			next.Lease = c.opts.MapTTL
		}
		if err := c.swap(ctx, old, next); err == nil {
			return next, nil
		} else if !errors.Is(err, ErrConflict) {
			return nil, err
		}
	}
}
