package site

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tierkit/tierkit/cache"
	"github.com/tierkit/tierkit/shard"
)

// Count is what readers did with a page.
type Count struct{ Views, Likes, Comments int64 }

// Photo is one that has been resized.
type Photo struct {
	ID, Owner string
	At        time.Time
}

// lists are what all pages show and what no single shard knows. Each web server asks for them at most once a second.
type lists struct {
	Counts map[string]Count
	Photos []Photo
}

func newLists() (*cache.Cache[string, lists], error) {
	return cache.New(cache.Options[string, lists]{MaxEntries: 16, TTL: time.Second, StaleFor: 5 * time.Second,
		StaleIfError: time.Minute})
}

// counts returns the figures of every chapter.
func (s *Site) counts(ctx context.Context) (map[string]Count, error) {
	l, err := s.lists.Load(ctx, "counts", func(ctx context.Context, _ string) (lists, error) {
		var keys []shard.Key
		for _, c := range s.chapters {
			keys = append(keys, shard.String(c.Path))
		}
		var mu sync.Mutex
		counts := map[string]Count{}
		err := s.Shards.DoMany(ctx, keys, func(ctx context.Context, db *sql.DB, idx []int) error {
			for _, i := range idx {
				path := s.chapters[i].Path
				var c Count
				err := db.QueryRowContext(ctx, `SELECT views, likes, comments FROM pages WHERE path = ?`, path).
					Scan(&c.Views, &c.Likes, &c.Comments)
				if err != nil {
					return err
				}
				mu.Lock()
				counts[path] = c
				mu.Unlock()
			}
			return nil
		})
		return lists{Counts: counts}, err
	})
	return l.Counts, err
}

// cards are chapters with their figures, the most read first.
func (s *Site) cards(ctx context.Context, chapters []*Chapter) ([]Card, error) {
	counts, err := s.counts(ctx)
	if err != nil {
		return nil, err
	}
	var cards []Card
	for _, c := range chapters {
		cards = append(cards, Card{c, counts[c.Path]})
	}
	slices.SortStableFunc(cards, func(a, b Card) int { return cmp.Compare(b.Count.Views, a.Count.Views) })
	return cards, nil
}

// photos returns the newest photos, of one person or of all.
func (s *Site) photos(ctx context.Context, owner string, limit int) ([]Photo, error) {
	l, err := s.lists.Load(ctx, "photos", func(ctx context.Context, _ string) (lists, error) {
		var mu sync.Mutex
		var all []Photo
		err := s.Shards.Each(ctx, func(ctx context.Context, _ shard.ID, db *sql.DB) error {
			rows, err := db.QueryContext(ctx, `
				SELECT id, owner, created FROM photos
				WHERE thumb IS NOT NULL ORDER BY created DESC LIMIT 200`)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var p Photo
				var created int64
				if err := rows.Scan(&p.ID, &p.Owner, &created); err != nil {
					return err
				}
				p.At = time.UnixMilli(created)
				mu.Lock()
				all = append(all, p)
				mu.Unlock()
			}
			return rows.Err()
		})
		slices.SortFunc(all, func(a, b Photo) int { return b.At.Compare(a.At) })
		return lists{Photos: all}, err
	})
	var out []Photo
	for _, p := range l.Photos {
		if (owner == "" || p.Owner == owner) && len(out) < limit {
			out = append(out, p)
		}
	}
	return out, err
}

// find returns the chapters that have all words of a query.
func (s *Site) find(query string) (found []*Chapter) {
	words := strings.Fields(strings.ToLower(query))
	for _, c := range s.chapters {
		if len(words) > 0 && !slices.ContainsFunc(words, func(w string) bool {
			return !strings.Contains(c.search, w)
		}) {
			found = append(found, c)
		}
	}
	return found
}
