package cache_test

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/tierkit/tierkit/cache"
)

// Cache-aside: look, and on a miss read the source and store what it said.
func Example() {
	c, err := cache.New(cache.Options[string, int]{MaxEntries: 1000, TTL: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.Get("answer"); !ok {
		c.Set("answer", 42)
	}
	fmt.Println(c.Get("answer"))
	// Output: 42 true
}

// Read-through: however many miss at once, the source is asked once.
func ExampleCache_Load() {
	ctx := context.Background()
	c, _ := cache.New(cache.Options[int, string]{})
	defer c.Close()
	read := func(ctx context.Context, id int) (string, error) {
		fmt.Println("reading", id)
		return fmt.Sprint("user ", id), nil
	}
	for range 2 {
		fmt.Println(c.Load(ctx, 7, read))
	}
	// Output:
	// reading 7
	// user 7 <nil>
	// user 7 <nil>
}

// Many keys, one call for those that are missing.
func ExampleCache_LoadMany() {
	ctx := context.Background()
	c, _ := cache.New(cache.Options[int, string]{})
	defer c.Close()
	c.Set(1, "cached")
	got, err := c.LoadMany(ctx, []int{1, 2}, func(ctx context.Context, ids []int) (map[int]string, error) {
		fmt.Println("SELECT ... WHERE id IN", ids)
		return map[int]string{2: "read"}, nil
	})
	fmt.Println(got, err)
	// Output:
	// SELECT ... WHERE id IN [2]
	// map[1:cached 2:read] <nil>
}

// What does not exist is remembered too, for a while of its own.
func ExampleOptions_negativeTTL() {
	ctx := context.Background()
	c, _ := cache.New(cache.Options[string, int]{NegativeTTL: time.Second})
	defer c.Close()
	for range 2 {
		_, err := c.Load(ctx, "nobody", func(context.Context, string) (int, error) {
			fmt.Println("asked the database")
			return 0, cache.ErrNotFound
		})
		fmt.Println(err)
	}
	// Output:
	// asked the database
	// cache: not found
	// cache: not found (cached)
}

// Bounded by bytes instead of entries.
func ExampleOptions_maxWeight() {
	c, _ := cache.New(cache.Options[string, []byte]{MaxWeight: 1 << 20, Weigh: func(k string, v []byte) int64 {
		return int64(len(k) + len(v))
	}})
	defer c.Close()
	for i := range 100 {
		c.Set(fmt.Sprint(i), make([]byte, 64<<10))
	}
	fmt.Println(c.Stats().Weight <= 1<<20)
	// Output: true
}

// Write-through: the store first, then the cache.
func ExampleNewThrough() {
	ctx := context.Background()
	rows := map[string]int{}
	store := cache.Funcs[string, int]{
		GetFunc:    func(_ context.Context, k string) (int, error) { return rows[k], nil },
		SetFunc:    func(_ context.Context, k string, v int) error { rows[k] = v; return nil },
		DeleteFunc: func(_ context.Context, k string) error { delete(rows, k); return nil },
	}
	c, _ := cache.New(cache.Options[string, int]{})
	defer c.Close()
	users := cache.NewThrough(c, store, false)
	_ = users.Set(ctx, "ada", 1)
	v, err := users.Get(ctx, "ada")
	fmt.Println(v, err, rows)
	// Output: 1 <nil> map[ada:1]
}

// Write-back: many writes of a key become one of the store.
func ExampleNewBack() {
	ctx := context.Background()
	writes := 0
	store := cache.Funcs[string, int]{
		GetFunc:    func(context.Context, string) (int, error) { return 0, cache.ErrNotFound },
		SetFunc:    func(_ context.Context, _ string, v int) error { writes++; return nil },
		DeleteFunc: func(context.Context, string) error { return nil },
	}
	c, _ := cache.New(cache.Options[string, int]{})
	defer c.Close()
	counters, _ := cache.NewBack(c, store, cache.BackOptions{Delay: time.Hour})
	for i := range 1000 {
		_ = counters.Set(ctx, "views", i)
	}
	fmt.Println(counters.Close(ctx), writes)
	// Output: <nil> 1
}

// A journal: what was acknowledged is in the store in the end, also when the process is killed.
func ExampleOpenBack() {
	ctx := context.Background()
	dir, _ := os.MkdirTemp("", "journal")
	defer os.RemoveAll(dir)
	rows := map[string]int{}
	store := cache.Funcs[string, int]{
		GetFunc:    func(context.Context, string) (int, error) { return 0, cache.ErrNotFound },
		SetFunc:    func(_ context.Context, k string, v int) error { rows[k] = v; return nil },
		DeleteFunc: func(context.Context, string) error { return nil },
	}
	c, _ := cache.New(cache.Options[string, int]{})
	defer c.Close()
	journal := cache.Journal[string, int]{Dir: dir}
	likes, _ := cache.OpenBack(c, store, cache.BackOptions{Delay: time.Hour}, journal)
	_ = likes.Set(ctx, "photo", 41) // returns when it is on disk
	_ = likes.Set(ctx, "photo", 42)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	fmt.Println(likes.Close(gone) != nil, rows) // as if the process had died

	likes, _ = cache.OpenBack(c, store, cache.BackOptions{}, journal)
	fmt.Println(likes.Close(ctx), rows)
	// Output:
	// true map[]
	// <nil> map[photo:42]
}

func ExampleTagged() {
	pages, err := cache.NewTagged(cache.Options[string, string]{})
	if err != nil {
		panic(err)
	}
	defer pages.Close()
	pages.Set("/", "all products", "product-7", "product-8")
	pages.Set("/8", "product 8", "product-8")
	pages.DeleteTag("product-7") // it was changed
	_, home := pages.Get("/")
	_, eight := pages.Get("/8")
	fmt.Println(home, eight)
	// Output: false true
}

func ExampleFresh() {
	users, err := cache.NewFresh(cache.Options[string, string]{}, cmp.Compare[uint64])
	if err != nil {
		panic(err)
	}
	defer users.Close()
	users.Changed("ada", 120) // a transaction wrote her row and committed at position 120
	lagging := func(context.Context, string, uint64) (string, uint64, error) { return "old name", 117, nil }
	name, _ := users.Load(context.Background(), "ada", 0, lagging)
	_, kept := users.Get("ada", 0)
	fmt.Println(name, kept)
	// Output: old name false
}
