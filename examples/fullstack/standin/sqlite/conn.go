package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"

	"github.com/tierkit/tierkit/replica"
)

// Connector opens connections to this node: writes only on the primary (else ErrNotPrimary), reads on all.
func (n *Node) Connector() driver.Connector { return connector{n} }

type connector struct{ n *Node }

func (c connector) Driver() driver.Driver { return sqliteDriver() }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	e := c.n.engine.Load()
	if err := e.pass(ctx, func() error { return nil }); err != nil {
		return nil, err
	}
	return &conn{e: e}, nil
}

// conn is a client's connection to one life of a node.
type conn struct {
	e    *engine
	mu   sync.Mutex // guards read against the installation of a snapshot
	read driver.Conn
	bad  bool
	tx   *tx
}

var classifier = replica.Plain(replica.PlainHooks{})

func (c *conn) Close() error {
	if c.tx != nil {
		_ = c.tx.Rollback()
	}
	c.closeRead()
	c.e.mu.Lock()
	delete(c.e.reads, c)
	c.e.mu.Unlock()
	return nil
}

func (c *conn) closeRead() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bad = true
	if c.read != nil {
		_ = c.read.Close()
		c.read = nil
	}
}

func (c *conn) reader() (driver.Conn, error) {
	if c.bad {
		return nil, driver.ErrBadConn
	}
	if c.read == nil {
		r, err := openSQLite(c.e.n.cfg.Dir, true)
		if err != nil {
			return nil, err
		}
		c.read = r
		c.e.mu.Lock()
		c.e.reads[c] = struct{}{}
		c.e.mu.Unlock()
	}
	return c.read, nil
}

func (c *conn) IsValid() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.bad && c.e.ctx.Err() == nil
}

func (c *conn) ResetSession(context.Context) error {
	if !c.IsValid() {
		return driver.ErrBadConn
	}
	return nil
}

func (c *conn) Ping(ctx context.Context) error { return c.e.pass(ctx, func() error { return nil }) }

func (c *conn) Prepare(query string) (driver.Stmt, error) { return &stmt{c, query}, nil }

func (c *conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *conn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	if c.tx != nil {
		return nil, errors.New("sqlite: a transaction is open")
	}
	if o.ReadOnly {
		err := c.onReader(ctx, func(r driver.Conn) error { _, err := run(ctx, r, "begin"); return err })
		if err != nil {
			return nil, err
		}
		c.tx = &tx{c: c, readOnly: true}
		return c.tx, nil
	}
	if err := c.e.begin(ctx); err != nil {
		return nil, err
	}
	c.tx = &tx{c: c, ctx: ctx}
	return c.tx, nil
}

func (c *conn) onReader(ctx context.Context, f func(r driver.Conn) error) error {
	return c.e.pass(ctx, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		r, err := c.reader()
		if err != nil {
			return err
		}
		return f(r)
	})
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if c.tx != nil && !c.tx.readOnly {
		rows, _, err := c.tx.run(ctx, query, args, true)
		return rows, err
	}
	class := classifier.Classify(query).Class
	if class == replica.ClassWrite && !isExplain(query) {
		rows, _, err := c.autocommit(ctx, query, args, true)
		return rows, err
	}
	var out *memoryRows
	err := c.onReader(ctx, func(r driver.Conn) error {
		rows, err := rowsOf(ctx, r, query, normalize(args))
		if err != nil {
			return err
		}
		out, err = collect(rows)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if c.tx != nil {
		if c.tx.readOnly {
			return nil, ErrNotPrimary
		}
		_, res, err := c.tx.run(ctx, query, args, false)
		return res, err
	}
	_, res, err := c.autocommit(ctx, query, args, false)
	return res, err
}

func isExplain(q string) bool {
	t := tokens(q)
	return len(t) > 0 && t[0] == "explain"
}

func (c *conn) autocommit(ctx context.Context, query string, args []driver.NamedValue, rows bool) (driver.Rows,
	driver.Result, error) {
	if err := checkDeterministic(query); err != nil {
		return nil, nil, err
	}
	if err := c.e.begin(ctx); err != nil {
		return nil, nil, err
	}
	t := &tx{c: c}
	out, res, err := t.run(ctx, query, args, rows)
	if err != nil {
		c.e.rollback()
		return nil, nil, err
	}
	return out, res, c.e.commit(ctx, t.stmts)
}

// tx is a client's transaction. One that writes holds the token.
type tx struct {
	c        *conn
	ctx      context.Context
	readOnly bool
	over     bool
	stmts    []statement
}

func (t *tx) run(ctx context.Context, query string, args []driver.NamedValue, wantRows bool) (out driver.Rows,
	res driver.Result, err error) {
	if t.over {
		return nil, nil, errors.New("sqlite: the transaction is over")
	}
	read := classifier.Classify(query).Class == replica.ClassRead
	if !read {
		if err := checkDeterministic(query); err != nil {
			return nil, nil, err
		}
	}
	args = normalize(args)
	e := t.c.e
	err = e.pass(ctx, func() error {
		bg := context.WithoutCancel(ctx)
		if wantRows {
			rows, err := rowsOf(bg, e.conn, query, args)
			if err != nil {
				return err
			}
			out, err = collect(rows)
			return err
		}
		res, err = run(bg, e.conn, query, args...)
		return err
	})
	if err == nil && !read {
		t.stmts = append(t.stmts, statement{query, args})
	}
	return out, res, err
}

func (t *tx) Commit() error {
	if t.over {
		return errors.New("sqlite: the transaction is over")
	}
	t.over = true
	t.c.tx = nil
	if t.readOnly {
		return t.c.onReader(context.Background(), func(r driver.Conn) error {
			_, err := run(context.Background(), r, "commit")
			return err
		})
	}
	return t.c.e.commit(t.ctx, t.stmts)
}

func (t *tx) Rollback() error {
	if t.over {
		return nil
	}
	t.over = true
	t.c.tx = nil
	if t.readOnly {
		t.c.mu.Lock()
		defer t.c.mu.Unlock()
		if t.c.read != nil {
			_, _ = run(context.Background(), t.c.read, "rollback")
		}
		return nil
	}
	t.c.e.rollback()
	return nil
}

type stmt struct {
	c     *conn
	query string
}

func (s *stmt) Close() error  { return nil }
func (s *stmt) NumInput() int { return -1 }
func (s *stmt) Exec([]driver.Value) (driver.Result, error) {
	return nil, fmt.Errorf("sqlite: use ExecContext")
}
func (s *stmt) Query([]driver.Value) (driver.Rows, error) {
	return nil, fmt.Errorf("sqlite: use QueryContext")
}
func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.c.ExecContext(ctx, s.query, args)
}
func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.c.QueryContext(ctx, s.query, args)
}
