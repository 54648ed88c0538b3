package replica

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jmoiron/sqlx"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/tierkit/tierkit/internal/test/testserver"
	"github.com/tierkit/tierkit/replica"
)

// libraries starts a primary with a standby; a session makes what is written visible to the reads that follow.
func libraries(t *testing.T) (*replica.Cluster, context.Context) {
	s := testserver.Postgres(t, testserver.PostgresOptions{Standbys: 1})
	if _, err := s.Primary().DB().Exec(`create table authors (id bigserial primary key, name text not null, tags text[] not null default '{}', seen timestamptz)`); err != nil {
		t.Fatal(err)
	}
	var nodes []replica.Node
	for _, n := range s.Nodes {
		cfg, err := pgx.ParseConfig(n.DSN())
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, replica.Node{Name: n.Name, Connector: stdlib.GetConnector(*cfg)})
	}
	c, err := replica.New(replica.Postgres(), nodes, replica.Options{WaitBudget: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	for end := time.Now().Add(30 * time.Second); len(c.Explain("select 1").Nodes) == 0 || c.Status().Primary == "" ||
		c.Explain("select 1").Nodes[0] == c.Status().Primary; {
		if time.Now().After(end) {
			t.Fatalf("%+v", c.Status())
		}
		time.Sleep(2 * time.Millisecond)
	}
	// The table came by another way than the cluster: no session knows of it, and what is prepared may be prepared on
	// the standby.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		err := s.Nodes[1].DB().QueryRow(`select count(*) from authors`).Scan(new(int))
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	return c, replica.WithSession(context.Background(), replica.NewSession())
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same[T comparable](t *testing.T, want, got T) {
	t.Helper()
	if want != got {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// used checks that reads ran on the standby, and that nothing had to be healed: the statements were classified rightly.
func used(t *testing.T, c *replica.Cluster) {
	t.Helper()
	st := c.Stats()
	if st.ReadsReplica == 0 || st.Writes == 0 || st.Healed != 0 {
		t.Fatalf("%+v", st)
	}
}

type author struct {
	ID   int64
	Name string
	Tags []string
	Seen sql.NullTime
}

func TestSQLX(t *testing.T) {
	c, ctx := libraries(t)
	db := sqlx.NewDb(c.DB(), "pgx")
	type row struct {
		ID   int64  `db:"id"`
		Name string `db:"name"`
	}
	var id int64
	ok(t, db.GetContext(ctx, &id, `insert into authors (name) values ($1) returning id`, "ada"))
	_, err := db.NamedExecContext(ctx, `insert into authors (name) values (:name)`, []row{{Name: "bob"}, {Name: "eve"}})
	ok(t, err)
	var rows []row
	ok(t, db.SelectContext(ctx, &rows, `select id, name from authors order by id`))
	same(t, 3, len(rows))
	q, args, err := sqlx.In(`select id, name from authors where name in (?)`, []string{"bob", "eve"})
	ok(t, err)
	rows = nil
	ok(t, db.SelectContext(ctx, &rows, db.Rebind(q), args...))
	same(t, 2, len(rows))
	st, err := db.PrepareNamedContext(ctx, `select id, name from authors where name = :name`)
	ok(t, err)
	defer st.Close()
	var one row
	ok(t, st.GetContext(ctx, &one, map[string]any{"name": "ada"}))
	same(t, id, one.ID)
	tx, err := db.BeginTxx(ctx, nil)
	ok(t, err)
	tx.MustExecContext(ctx, `update authors set name = 'Ada' where id = $1`, id)
	ok(t, tx.GetContext(ctx, &one, `select id, name from authors where id = $1`, id))
	same(t, "Ada", one.Name)
	ok(t, tx.Commit())
	same(t, sql.ErrNoRows, db.GetContext(ctx, &one, `select id, name from authors where id = -1`))
	used(t, c)
}

func TestGorm(t *testing.T) {
	c, ctx := libraries(t)
	db, err := gorm.Open(postgres.New(postgres.Config{Conn: c.DB()}), &gorm.Config{})
	ok(t, err)
	type Author struct {
		ID   int64
		Name string
	}
	db = db.WithContext(ctx)
	ada := Author{Name: "ada"}
	ok(t, db.Create(&ada).Error)
	ok(t, db.Create(&[]Author{{Name: "bob"}, {Name: "eve"}}).Error)
	var all []Author
	ok(t, db.Order("id").Find(&all).Error)
	same(t, 3, len(all))
	var one Author
	ok(t, db.First(&one, "name = ?", "ada").Error)
	same(t, ada.ID, one.ID)
	ok(t, db.Model(&one).Update("name", "Ada").Error)
	ok(t, db.Transaction(func(tx *gorm.DB) error {
		if err := tx.Clauses(clause.Locking{Strength: "UPDATE"}).First(&one, ada.ID).Error; err != nil {
			return err
		}
		return tx.Save(&Author{ID: ada.ID, Name: "Ada L."}).Error
	}))
	one = Author{}
	ok(t, db.Take(&one, ada.ID).Error)
	same(t, "Ada L.", one.Name)
	ok(t, db.Delete(&Author{}, "name = ?", "bob").Error)
	var n int64
	ok(t, db.Model(&Author{}).Count(&n).Error)
	same(t, 2, n)
	if err := db.First(&Author{}, -1).Error; !errors.Is(err, gorm.ErrRecordNotFound) {
		t.Fatal(err)
	}
	used(t, c)
}

func TestBun(t *testing.T) {
	c, ctx := libraries(t)
	db := bun.NewDB(c.DB(), pgdialect.New())
	type Author struct {
		bun.BaseModel `bun:"table:authors"`
		ID            int64 `bun:",pk,autoincrement"`
		Name          string
		Tags          []string `bun:",array"`
	}
	ada := &Author{Name: "ada", Tags: []string{"a", "b"}}
	_, err := db.NewInsert().Model(ada).Exec(ctx) // RETURNING
	ok(t, err)
	if ada.ID == 0 {
		t.Fatal("no id")
	}
	var got Author
	ok(t, db.NewSelect().Model(&got).Where("id = ?", ada.ID).Scan(ctx))
	same(t, "b", got.Tags[1])
	ok(t, db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewUpdate().Model(&got).Set("name = ?", "Ada").WherePK().Exec(ctx)
		return err
	}))
	n, err := db.NewSelect().Model((*Author)(nil)).Where("name = ?", "Ada").Count(ctx)
	ok(t, err)
	same(t, 1, n)
	used(t, c)
}

// What sqlc generates: a DBTX, statements that begin with a comment, and optionally all of them prepared at the start.
type dbtx interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	PrepareContext(context.Context, string) (*sql.Stmt, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

type queries struct {
	db                dbtx
	tx                *sql.Tx
	create, get, list *sql.Stmt
}

const (
	createAuthor = `-- name: CreateAuthor :one
insert into authors (name, tags) values ($1, $2)
returning id, name, tags, seen
`
	getAuthor = `-- name: GetAuthor :one
select id, name, tags, seen from authors
where id = $1 limit 1
`
	listAuthors = `-- name: ListAuthors :many
select id, name, tags, seen from authors
order by name
`
	touchAuthor = `-- name: TouchAuthor :execrows
update authors set seen = now() where id = $1
`
)

func prepare(ctx context.Context, db dbtx) (q *queries, err error) {
	q = &queries{db: db}
	for text, dst := range map[string]**sql.Stmt{createAuthor: &q.create, getAuthor: &q.get, listAuthors: &q.list} {
		if *dst, err = db.PrepareContext(ctx, text); err != nil {
			return nil, err
		}
	}
	return q, nil
}

func (q *queries) withTx(tx *sql.Tx) *queries {
	return &queries{db: tx, tx: tx, create: q.create, get: q.get, list: q.list}
}

func (q *queries) row(ctx context.Context, st *sql.Stmt, text string, args ...any) *sql.Row {
	switch {
	case st != nil && q.tx != nil:
		return q.tx.StmtContext(ctx, st).QueryRowContext(ctx, args...)
	case st != nil:
		return st.QueryRowContext(ctx, args...)
	}
	return q.db.QueryRowContext(ctx, text, args...)
}

func (q *queries) one(ctx context.Context, st *sql.Stmt, text string, args ...any) (a author, err error) {
	var tags pgTags
	err = q.row(ctx, st, text, args...).Scan(&a.ID, &a.Name, &tags, &a.Seen)
	a.Tags = tags
	return a, err
}

var pgxMap = pgtype.NewMap()

// pgTags is read by pgx's own type map.
type pgTags []string

func (p *pgTags) Scan(v any) error { return pgxMap.SQLScanner((*[]string)(p)).Scan(v) }

func TestSQLCStyle(t *testing.T) {
	for _, prepared := range []bool{false, true} {
		c, ctx := libraries(t)
		q := &queries{db: c.DB()}
		if prepared {
			var err error
			q, err = prepare(ctx, c.DB())
			ok(t, err)
		}
		a, err := q.one(ctx, q.create, createAuthor, "ada", []string{"x", "y"})
		ok(t, err)
		got, err := q.one(ctx, q.get, getAuthor, a.ID)
		ok(t, err)
		same(t, "y", got.Tags[1])
		tx, err := c.DB().BeginTx(ctx, nil)
		ok(t, err)
		in := q.withTx(tx)
		b, err := in.one(ctx, in.create, createAuthor, "bob", []string{})
		ok(t, err)
		_, err = in.one(ctx, in.get, getAuthor, b.ID)
		ok(t, err)
		ok(t, tx.Rollback())
		if _, err := q.one(ctx, q.get, getAuthor, b.ID); !errors.Is(err, sql.ErrNoRows) {
			t.Fatal(err)
		}
		res, err := q.db.ExecContext(ctx, touchAuthor, a.ID)
		ok(t, err)
		n, err := res.RowsAffected()
		ok(t, err)
		same(t, 1, n)
		got, err = q.one(ctx, q.get, getAuthor, a.ID)
		ok(t, err)
		same(t, true, got.Seen.Valid)
		rows, err := c.DB().QueryContext(ctx, listAuthors)
		ok(t, err)
		count := 0
		for rows.Next() {
			count++
		}
		ok(t, rows.Err())
		ok(t, rows.Close())
		same(t, 1, count)
		for _, st := range []*sql.Stmt{q.create, q.get, q.list} {
			if st != nil {
				ok(t, st.Close())
			}
		}
		used(t, c)
	}
}
