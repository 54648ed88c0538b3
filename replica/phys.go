package replica

import (
	"context"
	"database/sql/driver"
	"errors"
)

// maxStmts bounds the prepared statements kept on one physical connection; over it all are closed when it is given
// back.
const maxStmts = 64

// check converts the arguments as database/sql would have: the statement's checker first, then the connection's, then
// the default. It happens here because only now is it known which connection will run the statement.
func (p *phys) check(st driver.Stmt, args []driver.NamedValue) ([]driver.NamedValue, error) {
	if len(args) == 0 {
		return args, nil
	}
	var stChecker driver.NamedValueChecker
	var columns driver.ColumnConverter //lint:ignore SA1019 old drivers have it
	if st != nil {
		stChecker, _ = st.(driver.NamedValueChecker)
		columns, _ = st.(driver.ColumnConverter) //lint:ignore SA1019 the same
	}
	connChecker := p.checker
	out := args[:0]
	for i := range args {
		nv := &args[i] // in place: a copy would escape
		err := driver.ErrSkip
		if stChecker != nil {
			err = stChecker.CheckNamedValue(nv)
		}
		if err == driver.ErrSkip && connChecker != nil {
			err = connChecker.CheckNamedValue(nv)
		}
		if err == driver.ErrSkip {
			if columns != nil {
				nv.Value, err = columns.ColumnConverter(nv.Ordinal - 1).ConvertValue(nv.Value)
			} else {
				nv.Value, err = driver.DefaultParameterConverter.ConvertValue(nv.Value)
			}
		}
		switch err {
		case nil:
			out = append(out, *nv)
		case driver.ErrRemoveArgument:
		default:
			return nil, err
		}
	}
	return out, nil
}

func (p *phys) query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if q := p.queryer; q != nil {
		checked, err := p.check(nil, args)
		if err != nil {
			return nil, err
		}
		rows, err := q.QueryContext(ctx, query, checked)
		if err != driver.ErrSkip {
			return rows, err
		}
	}
	st, err := p.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return p.stmtQuery(ctx, st, args)
}

func (p *phys) exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if e := p.execer; e != nil {
		checked, err := p.check(nil, args)
		if err != nil {
			return nil, err
		}
		res, err := e.ExecContext(ctx, query, checked)
		if err != driver.ErrSkip {
			return res, err
		}
	}
	st, err := p.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return p.stmtExec(ctx, st, args)
}

// prepare returns the connection's own statement for the text, preparing it the first time.
func (p *phys) prepare(ctx context.Context, query string) (driver.Stmt, error) {
	if st, ok := p.stmts[query]; ok {
		return st, nil
	}
	var st driver.Stmt
	var err error
	if c, ok := p.conn.(driver.ConnPrepareContext); ok {
		st, err = c.PrepareContext(ctx, query)
	} else {
		st, err = p.conn.Prepare(query)
	}
	if err != nil {
		return nil, err
	}
	if p.stmts == nil {
		p.stmts = map[string]driver.Stmt{}
	}
	p.stmts[query] = st
	return st, nil
}

func (p *phys) stmtQuery(ctx context.Context, st driver.Stmt, args []driver.NamedValue) (driver.Rows, error) {
	args, err := p.check(st, args)
	if err != nil {
		return nil, err
	}
	if s, ok := st.(driver.StmtQueryContext); ok {
		return s.QueryContext(ctx, args)
	}
	vals, err := plainValues(ctx, args)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 for drivers without contexts
	return st.Query(vals)
}

func (p *phys) stmtExec(ctx context.Context, st driver.Stmt, args []driver.NamedValue) (driver.Result, error) {
	args, err := p.check(st, args)
	if err != nil {
		return nil, err
	}
	if s, ok := st.(driver.StmtExecContext); ok {
		return s.ExecContext(ctx, args)
	}
	vals, err := plainValues(ctx, args)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 for drivers without contexts
	return st.Exec(vals)
}

func plainValues(ctx context.Context, args []driver.NamedValue) ([]driver.Value, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	vals := make([]driver.Value, len(args))
	for i, a := range args {
		if a.Name != "" {
			return nil, errors.New("replica: the driver does not support named parameters")
		}
		vals[i] = a.Value
	}
	return vals, nil
}

func (p *phys) begin(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	if b, ok := p.conn.(driver.ConnBeginTx); ok {
		return b.BeginTx(ctx, o)
	}
	if o.Isolation != 0 {
		return nil, errors.New("replica: the driver does not support isolation levels")
	}
	if o.ReadOnly {
		return nil, errors.New("replica: the driver does not support read-only transactions")
	}
	//lint:ignore SA1019 for drivers without contexts
	return p.conn.Begin()
}

func (p *phys) closeStmts() {
	for q, st := range p.stmts {
		_ = st.Close()
		delete(p.stmts, q)
	}
}

func (p *phys) close() {
	// A broken connection's statements die with it; asking a dead server to close them would only wait.
	_ = p.conn.Close()
}
