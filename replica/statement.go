package replica

import (
	"context"
	"database/sql/driver"
)

// statement is one thing to run; what it is decides which method of the physical connection is called.
type statement struct {
	query string
	args  []driver.NamedValue
	kind  opKind
	rows  driver.Rows
	res   driver.Result
}

type opKind uint8

const (
	opQuery opKind = iota
	opExec
	opStmtQuery // through a prepared statement
	opStmtExec
	opPrepare
	opPing
)

func (s *statement) isExec() bool { return s.kind == opExec || s.kind == opStmtExec }

func (s *statement) on(ctx context.Context, p *phys) (err error) {
	switch s.kind {
	case opQuery:
		s.rows, err = p.query(ctx, s.query, s.args)
	case opExec:
		s.res, err = p.exec(ctx, s.query, s.args)
	case opPing:
		if pg, ok := p.conn.(driver.Pinger); ok {
			err = pg.Ping(ctx)
		}
	default:
		var st driver.Stmt
		if st, err = p.prepare(ctx, s.query); err != nil {
			return err
		}
		switch s.kind {
		case opStmtQuery:
			s.rows, err = p.stmtQuery(ctx, st, s.args)
		case opStmtExec:
			s.res, err = p.stmtExec(ctx, st, s.args)
		}
	}
	return err
}
