package shard

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/tierkit/tierkit/shard/internal/sqldb"
)

// AggregateQuery asks for count, sum, minimum and maximum of an expression over the rows of a managed table on all
// shards.
type AggregateQuery struct {
	// Table is one of Options.Tables. Required.
	Table string
	// Expr is a numeric SQL expression over its columns. Empty means "1", which counts rows.
	Expr string
	// Where is an SQL condition, with the dialect's placeholders for Args. Empty means all
	// rows.
	Where string
	Args  []any
}

// Aggregate is what an AggregateQuery found. NULLs are not counted, as in SQL.
type Aggregate struct {
	Count         int64
	Sum, Min, Max float64 // 0 when Count is 0
}

// Avg is the mean, 0 of nothing.
func (a Aggregate) Avg() float64 {
	if a.Count == 0 {
		return 0
	}
	return a.Sum / float64(a.Count)
}

const aggregateSlots = `
select {slot}, count({expr}), coalesce(sum({expr}), 0), coalesce(min({expr}), 0), coalesce(max({expr}), 0)
from {table}
where {where}
group by {slot}`

// Aggregate computes per slot in the databases and adds up the slots by their owners, so it is right during a move too.
func (c *Cluster) Aggregate(ctx context.Context, q AggregateQuery) (Aggregate, error) {
	var t *Table
	for i := range c.opts.Tables {
		if c.opts.Tables[i].Name == q.Table {
			t = &c.opts.Tables[i]
		}
	}
	if t == nil {
		return Aggregate{}, fmt.Errorf("shard: AggregateQuery.Table %q is not in Options.Tables", q.Table)
	}
	if q.Expr == "" {
		q.Expr = "1"
	}
	if q.Where == "" {
		q.Where = "1 = 1"
	}
	text := sqldb.Fill(aggregateSlots, "table", t.Name, "slot", c.db.Quote(t.SlotColumn), "expr", q.Expr,
		"where", q.Where)
	type part struct {
		slot Slot
		Aggregate
	}
	res, err := Scatter(ctx, c, Query[part]{
		SQL: text, Args: q.Args, MaxRows: -1, SlotOf: func(p part) Slot { return p.slot },
		Scan: func(r *sql.Rows) (p part, err error) { return p, r.Scan(&p.slot, &p.Count, &p.Sum, &p.Min, &p.Max) },
	})
	if err != nil {
		return Aggregate{}, err
	}
	var a Aggregate
	for _, p := range res.Rows {
		if p.Count == 0 {
			continue
		}
		if a.Count == 0 || p.Min < a.Min {
			a.Min = p.Min
		}
		if a.Count == 0 || p.Max > a.Max {
			a.Max = p.Max
		}
		a.Count += p.Count
		a.Sum += p.Sum
	}
	return a, nil
}
