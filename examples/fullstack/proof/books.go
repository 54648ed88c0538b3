package proof

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/tierkit/tierkit/replica"
	"github.com/tierkit/tierkit/shard"
)

// Books are what the databases hold, read from the primaries, to be compared with what clients were promised.
type Books struct {
	Views      map[string]int  // counted, per page
	Events     int             // rows behind them
	Writes     map[string]bool // ids of writes that are stored
	Likes      int             // rows of likes
	LikesSum   int             // sum of the pages' counters
	Thumbs     map[string]bool // photos that were resized
	Deleted    map[string]bool // posts that are deleted
	ViewsTotal int
}

// Audit reads the books of all shards.
func Audit(ctx context.Context, c *shard.Cluster) (*Books, error) {
	b := &Books{Views: map[string]int{}, Writes: map[string]bool{}, Thumbs: map[string]bool{},
		Deleted: map[string]bool{}}
	err := c.Each(replica.Primary(ctx), func(ctx context.Context, id shard.ID, db *sql.DB) error {
		var events, likes, sum int
		if err := db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM likes), (SELECT coalesce(sum(likes), 0) FROM pages)`).Scan(&events, &likes, &sum); err != nil {
			return fmt.Errorf("proof: audit of shard %s: %w", id, err)
		}
		b.Events, b.Likes, b.LikesSum = b.Events+events, b.Likes+likes, b.LikesSum+sum
		each := func(query string, add func(id string, n int)) error {
			rows, err := db.QueryContext(ctx, query)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var id string
				var n int
				if err := rows.Scan(&id, &n); err != nil {
					return err
				}
				add(id, n)
			}
			return rows.Err()
		}
		for _, q := range []struct {
			sql string
			add func(string, int)
		}{
			{`SELECT path, views FROM pages WHERE views > 0`, func(p string, n int) {
				b.Views[p] += n
				b.ViewsTotal += n
			}},
			{`SELECT id, 1 FROM writes`, func(id string, _ int) { b.Writes[id] = true }},
			{`SELECT id, 1 FROM photos WHERE thumb IS NOT NULL`, func(id string, _ int) { b.Thumbs[id] = true }},
			{`SELECT id, 1 FROM posts WHERE deleted = 1`, func(id string, _ int) { b.Deleted[id] = true }},
		} {
			if err := each(q.sql, q.add); err != nil {
				return fmt.Errorf("proof: audit of shard %s: %w", id, err)
			}
		}
		return nil
	})
	return b, err
}
