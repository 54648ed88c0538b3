package shard

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// State is the stored form of a Map.
type State struct {
	// Epoch rises by one with every stored change.
	Epoch       uint64          `json:"epoch"`
	HashVersion int             `json:"hash_version"`
	Slots       int             `json:"slots"`
	Shards      []ID            `json:"shards"`
	Owners      Owners          `json:"owners"` // index into Shards per slot
	Pins        map[string]Slot `json:"pins,omitempty"`
	PinOwners   map[Slot]uint16 `json:"pin_owners,omitempty"`
	// Modulo is set on a map that adopted a fleet sharded by id % Modulo.
	Modulo int `json:"modulo,omitempty"`
	// RangeWidth is set on a map that places integer keys by range.
	RangeWidth int64 `json:"range_width,omitempty"`
	// Directory is set on a map that places keys only where Assign or Pin put them.
	Directory bool `json:"directory,omitempty"`
	// Lease is the longest Options.Lease of the processes that ever opened the map.
	Lease time.Duration `json:"lease"`
	// Token is the highest mover token handed out.
	Token uint64    `json:"token"`
	Job   *JobState `json:"job,omitempty"` // the move in progress
}

// Owners marshals to two bytes per slot in base64.
type Owners []uint16

// MarshalText implements encoding.TextMarshaler.
func (o Owners) MarshalText() ([]byte, error) {
	b := make([]byte, 2*len(o))
	for i, v := range o {
		binary.LittleEndian.PutUint16(b[2*i:], v)
	}
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Owners) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil || len(b)%2 != 0 {
		return errors.New("shard: bad owners")
	}
	*o = make(Owners, len(b)/2)
	for i := range *o {
		(*o)[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return nil
}

func (s *State) clone() *State {
	n := *s
	n.Shards, n.Owners = slices.Clone(s.Shards), slices.Clone(s.Owners)
	n.Pins, n.PinOwners = maps.Clone(s.Pins), maps.Clone(s.PinOwners)
	if s.Job != nil {
		j := *s.Job
		n.Job = &j
	}
	return &n
}

// announced are the slots that may be fenced, or relabelled, while this is the state.
func (s *State) announced() map[Slot]bool {
	j := s.Job
	if j == nil {
		return nil
	}
	out := map[Slot]bool{}
	if j.Phase == PhasePin {
		out[j.Pin.Old] = true
	}
	for _, m := range j.Moves[j.Done:max(j.Done, j.Announced)] {
		out[m.Slot] = true
	}
	return out
}

// setOwner hands a slot over.
func (s *State) setOwner(slot Slot, to ID) error {
	i := slices.Index(s.Shards, to)
	if i < 0 {
		i = len(s.Shards)
		s.Shards = append(s.Shards, to)
	}
	if int(slot) < s.Slots {
		s.Owners[slot] = uint16(i)
		return nil
	}
	if _, ok := s.PinOwners[slot]; !ok {
		return fmt.Errorf("shard: slot %d does not exist", slot)
	}
	s.PinOwners[slot] = uint16(i)
	return nil
}

// forgetEmpty takes the shards that own nothing out of the map, so that they need not be given to New any more.
func (s *State) forgetEmpty() {
	used := map[uint16]bool{}
	for _, o := range s.Owners {
		used[o] = true
	}
	for _, o := range s.PinOwners {
		used[o] = true
	}
	var shards []ID
	now := make([]uint16, len(s.Shards))
	for i, id := range s.Shards {
		if now[i] = uint16(len(shards)); used[uint16(i)] {
			shards = append(shards, id)
		}
	}
	if len(shards) == len(s.Shards) || len(shards) == 0 {
		return
	}
	s.Shards = shards
	for i, o := range s.Owners {
		s.Owners[i] = now[o]
	}
	for slot, o := range s.PinOwners {
		s.PinOwners[slot] = now[o]
	}
}

// A MapStore keeps the State. Implementations are safe for concurrent use; a State handed out or in is not modified.
// Load sees every CompareAndSwap that returned before it was called, or else the store is a Stale one. Package
// shardtest has the conformance suite.
type MapStore interface {
	// Load returns the state; ErrNoMap when there is none yet.
	Load(ctx context.Context) (*State, error)
	// CompareAndSwap stores next if the stored epoch is old (0: none stored), else ErrConflict. It must be durable when
	// it returns nil.
	CompareAndSwap(ctx context.Context, old uint64, next *State) error
}

// Stale is a MapStore whose Load may miss changes that are younger than Staleness. Options.Lease must be longer, and
// counts from that much earlier.
type Stale interface{ Staleness() time.Duration }

// Watcher is a MapStore that tells of changes, so that they are known sooner than after Options.Refresh. Watch calls
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
	mu sync.Mutex
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

func (m *memoryStore) Epoch(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.st == nil {
		return 0, nil
	}
	return m.st.Epoch, nil
}

func (m *memoryStore) CompareAndSwap(_ context.Context, old uint64, next *State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	have := uint64(0)
	if m.st != nil {
		have = m.st.Epoch
	}
	if have != old {
		return ErrConflict
	}
	m.st = next
	return nil
}

// SQLStore keeps the state as one row of the table tk_map in db, which it creates. Reads run in write transactions, so
// db may be a replica.Cluster.
func SQLStore(db *sql.DB, d Dialect) MapStore { return &sqlStore{db: db, d: d} }

type sqlStore struct {
	db   *sql.DB
	d    Dialect
	mu   sync.Mutex // guards made
	made bool
}

func (s *sqlStore) make(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made {
		return nil
	}
	if err := createTable(ctx, s.db, `tk_map (id integer primary key, epoch bigint not null, state `+s.d.longText()+
		` not null)`); err != nil {
		return fmt.Errorf("shard: create tk_map: %w", err)
	}
	s.made = true
	return nil
}

func (s *sqlStore) inTx(ctx context.Context, f func(tx *sql.Tx) error) error {
	if err := s.make(ctx); err != nil {
		return err
	}
	return inTx(ctx, s.db, f)
}

func (s *sqlStore) Load(ctx context.Context) (*State, error) {
	var text string
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `select state from tk_map where id = 1`).Scan(&text)
	})
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
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `select epoch from tk_map where id = 1`).Scan(&epoch)
	})
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
			res, err = tx.ExecContext(ctx, s.d.bind(
				`insert into tk_map (id, epoch, state) values (1, ?, ?) on conflict (id) do nothing`),
				int64(next.Epoch), string(text))
		} else {
			res, err = tx.ExecContext(ctx, s.d.bind(
				`update tk_map set epoch = ?, state = ? where id = 1 and epoch = ?`), int64(next.Epoch), string(text),
				int64(old))
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
