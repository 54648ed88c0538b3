package replica

import (
	"context"
	"database/sql"
)

// Raw gives f the physical driver connection of conn, which stays pinned to it until conn is closed. Without a choice
// made before it is a connection to the primary. ErrForeignConn when conn is not of a Cluster.
func Raw(ctx context.Context, sqlConn *sql.Conn, f func(driverConn any) error) error {
	return sqlConn.Raw(func(dc any) error {
		n, ok := dc.(*conn)
		if !ok {
			return ErrForeignConn
		}
		if n.pin == nil {
			nd, _, err := n.c.pickPrimary(ctx)
			if err != nil {
				return err
			}
			if n.pin, err = n.hold(ctx, nd); err != nil {
				return err
			}
		}
		return f(n.pin.conn)
	})
}
