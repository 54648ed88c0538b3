package shard

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReferences(t *testing.T) {
	everyPlace(t, func(t *testing.T, p *place) {
		w := newWorld(t, p, 2, 16, 0)
		ctx := t.Context()
		refs := []Reference{{Name: "countries", Key: []string{"code"}}, {Name: "prices", Key: []string{"code", "item"}}}
		for _, sh := range w.shards {
			for _, q := range []string{`create table countries (code varchar(20) primary key, name text)`,
				`create table prices (code varchar(20) references countries (code), item int, cents int, primary key (code, item))`} {
				_, err := sh.DB.Exec(q)
				require.NoError(t, err)
			}
		}
		put := func(qs ...string) error {
			return w.c.UpdateReferences(ctx, refs, func(tx *sql.Tx) error {
				for _, q := range qs {
					if _, err := tx.Exec(q); err != nil {
						return err
					}
				}
				return nil
			})
		}
		require.NoError(t, put(`insert into countries values ('de', 'Germany'), ('fr', 'France'), ('xx', null)`,
			`insert into prices values ('de', 1, 100), ('xx', 1, 5)`))
		require.NoError(t, put(`update prices set cents = 120 where code = 'de'`,
			`delete from prices where code = 'xx'`, `delete from countries where code = 'xx'`))
		for _, sh := range w.shards {
			var n, cents int
			require.NoError(t, sh.DB.QueryRow(
				`select count(*), max(p.cents) from countries c left join prices p on p.code = c.code`).Scan(&n,
				&cents))
			require.Equal(t, []int{2, 120}, []int{n, cents}, sh.ID)
		}
		_, err := w.shards[1].DB.Exec(`alter table countries add column extra int`)
		require.NoError(t, err)
		var e *PartialError
		require.ErrorAs(t, put(`update countries set name = 'Frankreich' where code = 'fr'`), &e)
		require.Contains(t, e.Failed, ID("s1"))
		require.Len(t, e.Failed, 1)
		_, err = w.shards[1].DB.Exec(`alter table countries drop column extra`)
		require.NoError(t, err)
		require.NoError(t, w.c.SyncReferences(ctx, refs))
		var name string
		require.NoError(t, w.shards[1].DB.QueryRow(`select name from countries where code = 'fr'`).Scan(&name))
		require.Equal(t, "Frankreich", name)
		require.Error(t, w.c.SyncReferences(ctx, []Reference{{Name: "x"}}))
	})
}

func TestPartsSpreadAKey(t *testing.T) {
	c := router(t, 4, Options{})
	owners := map[ID]bool{}
	parts := Parts(String("star"), 32)
	for _, k := range parts {
		owners[c.Map().Owner(c.Slot(k))] = true
	}
	require.Len(t, owners, 4)
	for range 100 {
		require.Contains(t, parts, Part(String("star"), 32))
	}
	require.Equal(t, []Key{Int(7)}, Parts(Int(7), 1))
	require.Equal(t, Int(7), Part(Int(7), 0))
	require.Equal(t, String("7#1"), Parts(Int(7), 2)[1])
}

func TestAutoPin(t *testing.T) {
	w := newWorld(t, sqlitePlace(t), 2, 16, 60)
	ctx := t.Context()
	j, err := w.c.AutoPin(ctx, AutoPinOptions{Share: 0.9})
	require.NoError(t, err)
	require.Nil(t, j, "nobody is hot")
	for range 500 {
		require.NoError(t, w.c.Do(ctx, Int(8), func(context.Context, *sql.DB, Slot) error { return nil }))
	}
	from := w.c.Map().Owner(w.c.Slot(Int(8)))
	j, err = w.c.AutoPin(ctx, AutoPinOptions{})
	require.NoError(t, err)
	require.NotNil(t, j)
	_, err = w.c.AutoPin(ctx, AutoPinOptions{})
	require.ErrorIs(t, err, ErrMoving)
	require.NoError(t, j.Wait(ctx))
	require.NotEqual(t, from, w.c.Map().Owner(w.c.Slot(Int(8))))
	j, err = w.c.AutoPin(ctx, AutoPinOptions{})
	require.NoError(t, err)
	require.Nil(t, j, "it is pinned")
	_, err = w.c.AutoPin(ctx, AutoPinOptions{Share: 2})
	require.ErrorContains(t, err, "Share")
}

func TestLeasedIDs(t *testing.T) {
	everyPlace(t, func(t *testing.T, p *place) {
		db := p.open("leases")
		ctx := t.Context()
		o := LeaseOptions{NodeBits: 1, TTL: 2 * time.Second}
		var mu sync.Mutex
		seen := map[int64]bool{}
		make_ := func(l *LeasedIDs, n int) {
			for range n {
				id, err := l.Next(5)
				require.NoError(t, err)
				mu.Lock()
				require.False(t, seen[id])
				seen[id] = true
				mu.Unlock()
			}
		}
		a, err := LeaseIDs(ctx, db, p.d, o)
		require.NoError(t, err)
		b, err := LeaseIDs(ctx, db, p.d, o)
		require.NoError(t, err)
		require.NotEqual(t, a.Node(), b.Node())
		_, err = LeaseIDs(ctx, db, p.d, o)
		require.ErrorIs(t, err, ErrNoNode)
		var wg sync.WaitGroup
		wg.Go(func() { make_(a, 2000) })
		wg.Go(func() { make_(b, 2000) })
		wg.Wait()
		require.NoError(t, a.Close())
		require.NoError(t, a.Close())
		_, err = a.Next(5)
		require.ErrorIs(t, err, ErrNoNode)
		c, err := LeaseIDs(ctx, db, p.d, o)
		require.NoError(t, err)
		require.Equal(t, a.Node(), c.Node())
		make_(c, 500)
		// c dies without a word; who gets its number begins where it may have got to.
		c.cancel()
		c.wg.Wait()
		until := c.until.Load()
		var d *LeasedIDs
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if d, err = LeaseIDs(ctx, db, p.d, o); err == nil {
				break
			}
			require.True(t, errors.Is(err, ErrNoNode) && time.Now().Before(end), "%v", err)
		}
		id, err := d.Next(5)
		require.NoError(t, err)
		require.Greater(t, TimeOfID(id).Sub(idEpoch).Milliseconds(), until)
		_, err = c.Next(5)
		require.ErrorIs(t, err, ErrNoNode, "if it was not dead")
		// Somebody took b's number: it notices when it renews.
		_, err = db.Exec(`update tk_node set holder = 'thief'`)
		require.NoError(t, err)
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if _, err = b.Next(5); err != nil {
				break
			}
			require.True(t, time.Now().Before(end))
		}
		require.ErrorIs(t, err, ErrNoNode)
		require.NoError(t, b.Close())
		require.NoError(t, d.Close())
	})
	_, err := LeaseIDs(t.Context(), nil, SQLite(), LeaseOptions{NodeBits: 9})
	require.ErrorContains(t, err, "NodeBits")
}
