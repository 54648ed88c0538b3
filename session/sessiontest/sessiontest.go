// Package sessiontest holds every store of package session to the same contract.
package sessiontest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tierkit/tierkit/session"
)

// Run runs the suite. open returns a store, in which other tests may have left records. The suite gives its own times
// to the store, so it does not sleep.
func Run(t *testing.T, open func(t *testing.T) session.Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s session.Store)
	}{
		{"RecordKeepsItsFields", fields},
		{"MissingIsNotFound", missing},
		{"CreateRefusesAnExistingKey", exists},
		{"UpdateComparesVersions", update},
		{"UpdateDoesNotBringBack", noResurrection},
		{"ConcurrentUpdatesLoseNothing", concurrent},
		{"ExpiredCountsAsMissing", expired},
		{"IdleTimeoutIsTouched", idle},
		{"RotateMovesTheRecord", rotate},
		{"RotateWithGrace", grace},
		{"RotateComparesVersions", rotateConflict},
		{"LoginEndsAnEarlierGrace", graceEnds},
		{"TouchDoesNotBringBack", touchRace},
		{"DeleteIsFinalWhileRotated", deleteRace},
		{"LoadWhileRotatedSeesTheRecord", loadRace},
		{"UserIndex", users},
		{"LongerLifeStaysInTheIndex", remembered},
		{"ForEver", forever},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// Key returns a random key.
func Key() (k session.Key) {
	rand.Read(k[:])
	return k
}

var bg = context.Background()

// now has the precision that stores promise.
func now() time.Time { return time.Now().Truncate(time.Millisecond) }

func record(at time.Time) session.Record {
	return session.Record{Version: 1, Created: at, Seen: at, Expires: at.Add(time.Hour), Data: []byte("data")}
}

func create(t *testing.T, s session.Store, at time.Time, change ...func(*session.Record)) (session.Key,
	session.Record) {
	k, r := Key(), record(at)
	for _, f := range change {
		f(&r)
	}
	require.NoError(t, s.Create(bg, k, r))
	r.Key = k
	return k, r
}

func load(t *testing.T, s session.Store, k session.Key, at time.Time) session.Record {
	r, err := s.Load(bg, k, at)
	require.NoError(t, err)
	return r
}

func gone(t *testing.T, s session.Store, k session.Key, at time.Time) {
	_, err := s.Load(bg, k, at)
	require.ErrorIs(t, err, session.ErrNotFound)
}

func same(t *testing.T, want, got session.Record) {
	require.Equal(t, want.Version, got.Version)
	require.Equal(t, want.User, got.User)
	require.True(t, want.Created.Equal(got.Created), "created %v, not %v", got.Created, want.Created)
	require.True(t, want.Seen.Equal(got.Seen), "seen %v, not %v", got.Seen, want.Seen)
	require.True(t, want.Expires.Equal(got.Expires), "expires %v, not %v", got.Expires, want.Expires)
	require.Equal(t, want.Idle, got.Idle)
	require.Equal(t, want.Key, got.Key)
	require.Equal(t, string(want.Data), string(got.Data))
}

func fields(t *testing.T, s session.Store) {
	at := now()
	k, r := create(t, s, at, func(r *session.Record) {
		r.User, r.Idle, r.Data = "ada ✓", 90*time.Second, []byte{0, 1, 255, '\n', 0}
	})
	same(t, r, load(t, s, k, at))
	r.Data[0] = 9
	require.EqualValues(t, 0, load(t, s, k, at).Data[0], "the store has its own copy")
	k, r = create(t, s, at, func(r *session.Record) { r.Data = nil })
	require.Empty(t, load(t, s, k, at).Data)
}

func missing(t *testing.T, s session.Store) {
	gone(t, s, Key(), now())
	require.NoError(t, s.Delete(bg, Key()))
	require.ErrorIs(t, s.Update(bg, Key(), record(now()), now()), session.ErrNotFound)
	require.ErrorIs(t, s.Rotate(bg, Key(), Key(), record(now()), now(), time.Minute), session.ErrNotFound)
}

func exists(t *testing.T, s session.Store) {
	at := now()
	k, r := create(t, s, at)
	other := record(at)
	other.Data = []byte("other")
	require.ErrorIs(t, s.Create(bg, k, other), session.ErrExists)
	same(t, r, load(t, s, k, at))
}

func update(t *testing.T, s session.Store) {
	at := now()
	k, r := create(t, s, at, func(r *session.Record) { r.User = "u" })
	r.Data, r.Expires, r.Idle = []byte("two"), at.Add(2*time.Hour), time.Hour
	require.NoError(t, s.Update(bg, k, r, at))
	r.Version = 2
	same(t, r, load(t, s, k, at))
	r.Version, r.Data = 1, []byte("stale")
	require.ErrorIs(t, s.Update(bg, k, r, at), session.ErrConflict)
	r.Version = 3
	require.ErrorIs(t, s.Update(bg, k, r, at), session.ErrConflict)
	require.Equal(t, "two", string(load(t, s, k, at).Data))
}

func noResurrection(t *testing.T, s session.Store) {
	at := now()
	k, r := create(t, s, at)
	require.NoError(t, s.Delete(bg, k))
	gone(t, s, k, at)
	require.ErrorIs(t, s.Update(bg, k, r, at), session.ErrNotFound)
	require.ErrorIs(t, s.Rotate(bg, k, Key(), r, at, time.Minute), session.ErrNotFound)
	gone(t, s, k, at)
	require.NoError(t, s.Delete(bg, k))
}

func concurrent(t *testing.T, s session.Store) {
	at := now()
	k, _ := create(t, s, at, func(r *session.Record) { r.Data = []byte("0") })
	var wg sync.WaitGroup
	const n, each = 8, 5
	for range n {
		wg.Go(func() {
			for done := 0; done < each; {
				r, err := s.Load(bg, k, at)
				if err != nil {
					t.Error(err)
					return
				}
				var i int
				fmt.Sscan(string(r.Data), &i)
				r.Data = fmt.Append(nil, i+1)
				switch err := s.Update(bg, k, r, at); {
				case err == nil:
					done++
				case !errors.Is(err, session.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, fmt.Sprint(n*each), string(load(t, s, k, at).Data))
}

func expired(t *testing.T, s session.Store) {
	at := now()
	k, r := create(t, s, at)
	load(t, s, k, r.Expires.Add(-time.Millisecond))
	gone(t, s, k, r.Expires)
	require.ErrorIs(t, s.Update(bg, k, r, r.Expires), session.ErrNotFound)
	require.ErrorIs(t, s.Rotate(bg, k, Key(), r, r.Expires, 0), session.ErrNotFound)
}

func idle(t *testing.T, s session.Store) {
	at := now()
	k, r := create(t, s, at, func(r *session.Record) { r.Idle = 10 * time.Minute })
	got := load(t, s, k, at.Add(59*time.Second))
	require.True(t, got.Seen.Equal(at), "not touched before a tenth")
	got = load(t, s, k, at.Add(5*time.Minute))
	require.True(t, got.Seen.Equal(at.Add(5*time.Minute)))
	require.EqualValues(t, 1, got.Version)
	got = load(t, s, k, at.Add(14*time.Minute))
	require.True(t, got.Seen.Equal(at.Add(14*time.Minute)), "alive because it was touched")
	require.NoError(t, s.Update(bg, k, r, at.Add(14*time.Minute)), "touching is no change")
	gone(t, s, k, at.Add(24*time.Minute))
	k, _ = create(t, s, at, func(r *session.Record) { r.Idle, r.Expires = 10*time.Minute, at.Add(12*time.Minute) })
	load(t, s, k, at.Add(9*time.Minute))
	load(t, s, k, at.Add(12*time.Minute-time.Millisecond))
	gone(t, s, k, at.Add(12*time.Minute))
}

func rotate(t *testing.T, s session.Store) {
	at := now()
	k, r := create(t, s, at)
	next := Key()
	r.Data, r.User = []byte("new"), "ada"
	require.NoError(t, s.Rotate(bg, k, next, r, at, 0))
	gone(t, s, k, at)
	r.Version, r.Key = 2, next
	same(t, r, load(t, s, next, at))
	require.ErrorIs(t, s.Update(bg, k, r, at), session.ErrNotFound)
	require.NoError(t, s.Delete(bg, k))
	load(t, s, next, at)
}

func grace(t *testing.T, s session.Store) {
	at := now()
	k, r := create(t, s, at)
	k2, k3 := Key(), Key()
	require.NoError(t, s.Rotate(bg, k, k2, r, at, 10*time.Second))
	r.Version, r.Key = 2, k2
	same(t, r, load(t, s, k, at.Add(9*time.Second)))
	r.Data = []byte("by the old key")
	require.NoError(t, s.Update(bg, k, r, at))
	r.Version = 3
	same(t, r, load(t, s, k2, at))
	gone(t, s, k, at.Add(10*time.Second))
	require.NoError(t, s.Rotate(bg, k2, k3, r, at, 10*time.Second))
	gone(t, s, k, at) // only the newest grace key is kept
	r.Version, r.Key = 4, k3
	same(t, r, load(t, s, k2, at))
	require.NoError(t, s.Delete(bg, k2))
	gone(t, s, k2, at)
	gone(t, s, k3, at)
	k, r = create(t, s, at)
	require.NoError(t, s.Rotate(bg, k, k2, r, at, 10*time.Second))
	require.NoError(t, s.Delete(bg, k2))
	gone(t, s, k, at)
	gone(t, s, k2, at)
}

func rotateConflict(t *testing.T, s session.Store) {
	at := now()
	k, r := create(t, s, at, func(r *session.Record) { r.User = "someone" })
	require.NoError(t, s.Update(bg, k, r, at))
	next := Key()
	require.ErrorIs(t, s.Rotate(bg, k, next, r, at, time.Minute), session.ErrConflict)
	gone(t, s, next, at)
	load(t, s, k, at)
}

func users(t *testing.T, s session.Store) {
	u, ok := s.(session.UserIndex)
	if !ok {
		t.Skip("store without a user index")
	}
	name := fmt.Sprintf("user-%x", Key())
	at := now()
	var keys []session.Key
	for i := range 3 {
		k, _ := create(t, s, at.Add(time.Duration(i)*time.Second), func(r *session.Record) { r.User = name })
		keys = append(keys, k)
	}
	anonymous, r := create(t, s, at.Add(5*time.Second))
	logged := Key()
	r.User = name
	require.NoError(t, s.Rotate(bg, anonymous, logged, r, at, 0))
	list := func(at time.Time) (ks []session.Key) {
		ls, err := u.ListUser(bg, name, at)
		require.NoError(t, err)
		for _, l := range ls {
			require.Equal(t, name, l.Record.User)
			ks = append(ks, l.Key)
		}
		return ks
	}
	require.Equal(t, []session.Key{logged, keys[2], keys[1], keys[0]}, list(at))
	require.NoError(t, s.Delete(bg, keys[1]))
	require.Equal(t, []session.Key{logged, keys[2], keys[0]}, list(at))
	n, err := u.DeleteUser(bg, name, keys[2])
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, []session.Key{keys[2]}, list(at))
	gone(t, s, logged, at)
	require.Empty(t, list(at.Add(2*time.Hour)))
	none, err := u.ListUser(bg, "nobody-"+name, at)
	require.NoError(t, err)
	require.Empty(t, none)
}

// A session that is made to last longer after its login ("remember me") can be found, and so ended, for as long as it
// lasts.
func remembered(t *testing.T, s session.Store) {
	u, ok := s.(session.UserIndex)
	if !ok {
		t.Skip("store without a user index")
	}
	name := fmt.Sprintf("user-%x", Key())
	at := now()
	k, r := create(t, s, at, func(r *session.Record) { r.User, r.Expires = name, at.Add(time.Minute) })
	r.Expires = at.Add(48 * time.Hour)
	require.NoError(t, s.Update(bg, k, r, at))
	at = at.Add(24 * time.Hour)
	require.Equal(t, uint64(2), load(t, s, k, at).Version)
	other, _ := create(t, s, at, func(r *session.Record) { r.User = name }) // a login that tidies the list up
	ls, err := u.ListUser(bg, name, at)
	require.NoError(t, err)
	require.Len(t, ls, 2)
	n, err := u.DeleteUser(bg, name, other)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	gone(t, s, k, at)
}

// The largest Duration means that there is no end, or no idle timeout.
func forever(t *testing.T, s session.Store) {
	at := now()
	for _, idle := range []time.Duration{0, math.MaxInt64} {
		k, r := create(t, s, at, func(r *session.Record) { r.Expires, r.Idle = at.Add(math.MaxInt64), idle })
		for range 2 {
			at = at.Add(365 * 24 * time.Hour)
			require.Equal(t, r.Data, load(t, s, k, at).Data)
		}
		require.NoError(t, s.Update(bg, k, r, at))
		require.Equal(t, r.Data, load(t, s, k, at).Data)
	}
}

// A rotation without grace (a login) leaves no way to the record by an older id, not even by one whose grace has not
// ended: that would be session fixation.
func graceEnds(t *testing.T, s session.Store) {
	at := now()
	k, r := create(t, s, at)
	k2, k3 := Key(), Key()
	require.NoError(t, s.Rotate(bg, k, k2, r, at, time.Hour))
	r.Version, r.User = 2, "ada"
	require.NoError(t, s.Rotate(bg, k, k3, r, at, 0), "by the grace key, as a request under way would")
	gone(t, s, k, at)
	gone(t, s, k2, at)
	require.Equal(t, "ada", load(t, s, k3, at).User)
	require.ErrorIs(t, s.Update(bg, k, r, at), session.ErrNotFound)
	require.NoError(t, s.Delete(bg, k))
	load(t, s, k3, at)
}

const raceRounds = 10

// Loads that record use run against a logout.
func touchRace(t *testing.T, s session.Store) {
	at := now()
	for range raceRounds {
		k, _ := create(t, s, at, func(r *session.Record) { r.Idle = time.Minute })
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				if _, err := s.Load(bg, k, at.Add(time.Duration(10+i)*time.Second)); err != nil &&
					!errors.Is(err, session.ErrNotFound) {
					t.Error(err)
				}
			})
		}
		require.NoError(t, s.Delete(bg, k))
		wg.Wait()
		gone(t, s, k, at)
	}
}

// A logout by the old id runs against a rotation with grace: whoever comes first, the record is gone.
func deleteRace(t *testing.T, s session.Store) {
	at := now()
	for range raceRounds {
		k, r := create(t, s, at, func(r *session.Record) { r.User = "u" })
		next := Key()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Rotate(bg, k, next, r, at, time.Minute); err != nil && !errors.Is(err, session.ErrNotFound) {
				t.Error(err)
			}
		})
		require.NoError(t, s.Delete(bg, k))
		wg.Wait()
		gone(t, s, k, at)
		gone(t, s, next, at)
	}
}

// A load that records use runs against rotations with grace: it sees the record each time, whole.
func loadRace(t *testing.T, s session.Store) {
	at := now()
	for range raceRounds {
		k, r := create(t, s, at, func(r *session.Record) { r.Idle = time.Minute })
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Rotate(bg, k, Key(), r, at, time.Hour); err != nil {
				t.Error(err)
			}
		})
		for i := range 4 {
			wg.Go(func() {
				got, err := s.Load(bg, k, at.Add(time.Duration(10+i)*time.Second))
				if err != nil || string(got.Data) != "data" || got.Version == 0 {
					t.Error(got, err)
				}
			})
		}
		wg.Wait()
	}
}
