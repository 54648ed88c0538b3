package pgqueue

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tierkit/tierkit/queue"
)

// message scans a row's columns from kind on into m, after those of to.
func (g *group) message(rows pgx.Rows, m *queue.Message, to ...any) error {
	var ttl int64
	var priority int16
	var header []string
	var notBefore *time.Time
	if err := rows.Scan(append(to, &m.Kind, &m.ID, &m.Key, &priority, &notBefore, &ttl, &header,
		&m.Body)...); err != nil {
		return err
	}
	m.Topic, m.Priority, m.Header, m.TTL = g.topic, uint8(priority), headerOf(header),
		time.Duration(ttl)*time.Microsecond
	if notBefore != nil {
		m.NotBefore = *notBefore
	}
	if len(m.Body) == 0 {
		m.Body = nil
	}
	return nil
}

func (g *group) Dead(ctx context.Context, max int) (letters []queue.DeadLetter, err error) {
	rows, err := g.d.pool.Query(ctx, g.d.sql.dead, g.id, max)
	if err != nil {
		return nil, wrap("dead", err)
	}
	defer rows.Close()
	for rows.Next() {
		var l queue.DeadLetter
		var seq int64
		if err := g.message(rows, &l.Message, &seq, &l.Attempts, &l.Reason, &l.Published, &l.Died); err != nil {
			return nil, wrap("dead", err)
		}
		l.Seq = uint64(seq)
		letters = append(letters, l)
	}
	return letters, wrap("dead", rows.Err())
}

func (g *group) Peek(ctx context.Context, max int) (out []queue.Waiting, err error) {
	rows, err := g.d.pool.Query(ctx, g.d.sql.peek, g.id, max)
	if err != nil {
		return nil, wrap("peek", err)
	}
	defer rows.Close()
	for rows.Next() {
		var w queue.Waiting
		var seq int64
		var until *time.Time
		if err := g.message(rows, &w.Message, &seq, &w.Attempts, &w.State, &until, &w.Published); err != nil {
			return nil, wrap("peek", err)
		}
		if w.Seq = uint64(seq); until != nil {
			w.Until = *until
		}
		out = append(out, w)
	}
	return out, wrap("peek", rows.Err())
}
