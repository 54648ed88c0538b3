package replica

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestClassify(t *testing.T) {
	pg, my, plain := Postgres(), MariaDB(), Plain(PlainHooks{Volatile: []string{"audit"}})
	for _, c := range []struct {
		d     Dialect
		query string
		want  Class
	}{
		{pg, "select 1", ClassRead},
		{pg, "  -- name: GetUser :one\nSELECT * FROM users WHERE id = $1", ClassRead},
		{pg, "/* a /* nested */ insert */ select 1", ClassRead},
		{pg, "(select 1) union (select 2)", ClassRead},
		{pg, "values (1)", ClassRead},
		{pg, "table t;", ClassRead},
		{pg, "with a as (select 1) select * from a ; ;", ClassRead},
		{pg, "select 'insert into x; delete'", ClassRead},
		{pg, `select "update" from "delete"`, ClassRead},
		{pg, "select $$insert$$, $tag$ delete ; $tag$", ClassRead},
		{pg, `select E'it\'s; insert'`, ClassRead},
		{pg, "select replace(a, 'x', 'y') from t", ClassRead},
		{pg, "select substring(a for 3) from t", ClassRead},
		{pg, "select count(*), now(), random() from t where a = $1 and b like $2", ClassRead},
		{pg, "with x as (insert into t values (1) returning *) select * from x", ClassWrite},
		{pg, "with x as (delete from t) select 1", ClassWrite},
		{pg, "insert into t values (1) returning id", ClassWrite},
		{pg, "select * into t2 from t", ClassWrite},
		{pg, "select * from t for update", ClassWrite},
		{pg, "select * from t FOR NO KEY UPDATE;", ClassWrite},
		{pg, "select * from t for update skip locked", ClassWrite},
		{pg, "select * from t for key share", ClassWrite},
		{pg, "select 1; delete from t", ClassWrite},
		{pg, "select nextval('s')", ClassWrite},
		{pg, `select pg_catalog."nextval"('s')`, ClassWrite},
		{pg, "select pg_notify('a', 'b')", ClassWrite},
		{pg, "select pg_try_advisory_lock(1)", ClassSession},
		{pg, "select set_config('a', 'b', false)", ClassSession},
		{pg, "set search_path = x", ClassSession},
		{pg, "listen c", ClassSession},
		{pg, "create temp table x (a int)", ClassSession},
		{pg, "create local temporary table x (a int)", ClassSession},
		{pg, "create table x (a int)", ClassWrite},
		{pg, "show server_version", ClassWrite},
		{pg, "explain analyze insert into t values (1)", ClassWrite},
		{pg, "select 'unterminated", ClassWrite},
		{pg, "select $x$ unterminated", ClassWrite},
		{pg, "", ClassWrite},
		{pg, "vacuum", ClassWrite},
		{my, "select * from `update` where a = \"insert\" # into", ClassRead},
		{my, "select 'it\\'s into'", ClassRead},
		{my, "select 1--1", ClassRead},
		{my, "select * from t lock in share mode", ClassWrite},
		{my, "select /*! sql_calc_found_rows */ * from t", ClassWrite},
		{my, "select sql_calc_found_rows * from t", ClassWrite},
		{my, "select get_lock('a', 1)", ClassSession},
		{my, "select last_insert_id()", ClassSession},
		{my, "select @a := 1", ClassSession},
		{my, "select @@last_gtid", ClassSession},
		{my, "replace into t values (1)", ClassWrite},
		{my, "select replace('a', 'b', 'c')", ClassRead},
		{my, "select * into outfile '/x' from t", ClassWrite},
		{my, "create temporary table x (a int)", ClassSession},
		{plain, "select [insert] from t", ClassRead},
		{plain, "pragma user_version", ClassSession},
		{plain, "select audit(1)", ClassWrite},
		{plain, "select last_insert_rowid()", ClassSession},
	} {
		v := c.d.Classify(c.query)
		require.Equal(t, c.want, v.Class, "%s: %q: %s", c.d.Name(), c.query, v.Reason)
		require.Equal(t, v.Class != ClassRead, v.Reason != "", "%q", c.query)
	}
}

// FuzzClassify: the lexer ends, never panics, and no comment or layout turns a write into a read.
func FuzzClassify(f *testing.F) {
	for _, s := range []string{"select 1", "select $a$ b $a$", "/*", "select E'\\'",
		"with x as (delete from t) select 1", "select '", "select 1; drop table t"} {
		f.Add(s)
	}
	ds := []Dialect{Postgres(), MariaDB(), MySQL(), Plain(PlainHooks{})}
	f.Fuzz(func(t *testing.T, q string) {
		for _, d := range ds {
			v := d.Classify(q)
			if w := d.Classify("/* c */ " + q + "\n"); v.Class != ClassRead && w.Class == ClassRead {
				t.Fatalf("%s: %q is %v and a read behind a comment", d.Name(), q, v)
			}
			if v.Class == ClassRead {
				first := strings.ToLower(q)
				if !strings.Contains(first, "select") && !strings.Contains(first, "values") &&
					!strings.Contains(first, "table") && !strings.Contains(first, "with") {
					t.Fatalf("%s: %q is a read", d.Name(), q)
				}
			}
		}
	})
}

// What does not look like a call, and a name that servers cut to the length of another.
func TestSequencesAndLongNames(t *testing.T) {
	my, pg := MariaDB(), Postgres()
	for _, q := range []string{"select next value for s", "select previous value for s",
		"SELECT 1, NEXT /* c */ VALUE FOR s", "select s.nextval", "select s.currval"} {
		require.Equal(t, ClassWrite, my.Classify(q).Class, q)
	}
	require.Equal(t, ClassRead, my.Classify("select value from t").Class)
	require.Equal(t, ClassRead, pg.Classify("select substring(value for 3) from t").Class)
	require.Equal(t, ClassWrite, pg.Classify("select "+strings.Repeat("f", 70)+"(1)").Class)
}

func TestClassCacheIsBounded(t *testing.T) {
	c := newClassCache(8)
	for i := range 1000 {
		q := strings.Repeat("x", i)
		c.put(&classEntry{query: q})
		require.NotNil(t, c.get(q, 0))
	}
	e := &classEntry{query: "q", version: 1}
	c.put(e)
	require.Nil(t, c.get("q", 2), "an entry of an older function list does not count")
	c.put(&classEntry{query: "q", version: 1, learned: true})
	require.NotNil(t, c.get("q", 2), "what a replica refused stays known")
}

func TestGTID(t *testing.T) {
	require.True(t, mariaCovers("0-1-57,1-2-9", "1-7-9"))
	require.False(t, mariaCovers("0-1-57", "0-1-58"))
	require.False(t, mariaCovers("0-1-57", "1-1-1"))
	require.True(t, mysqlCovers("a:1-5:7-9,b:1-3", "a:2-4,b:3"))
	require.False(t, mysqlCovers("a:1-5:7-9", "a:5-7"))
	require.EqualValues(t, 11, mysqlOffset("a:1-5:7-9,b:1-3"))
}

func BenchmarkClassify(b *testing.B) {
	q := "SELECT id, name, email, created_at FROM users WHERE tenant = $1 AND id = $2 LIMIT 1"
	b.Run("lexer", func(b *testing.B) {
		d := Postgres()
		b.ReportAllocs()
		for b.Loop() {
			d.Classify(q)
		}
	})
	b.Run("cached", func(b *testing.B) {
		c := newClassCache(4096)
		c.put(&classEntry{query: q})
		b.ReportAllocs()
		for b.Loop() {
			c.get(q, 0)
		}
	})
}

// BenchmarkClassLookup is what a known statement costs: by its address, as constants are found, and by its text.
func BenchmarkClassLookup(b *testing.B) {
	const query = `SELECT id, name, email, created_at FROM users WHERE tenant = $1 AND id = $2 LIMIT 1`
	c := newClassCache(4096)
	c.put(&classEntry{query: query})
	for name, q := range map[string]string{"constant": query, "built": strings.Clone(query)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if c.get(q, 0) == nil {
					b.Fatal("not found")
				}
			}
		})
	}
}
