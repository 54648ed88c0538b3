package replica

import (
	"database/sql/driver"
	"errors"
)

// judge says what an error means and marks the connection when it broke. p is nil when there was none.
func (n *conn) judge(p *phys, err error) ErrorKind {
	var ce *connectError
	if errors.As(err, &ce) {
		return KindRefused // whatever the reason, nothing was sent
	}
	if errors.Is(err, errEjected) {
		if p == nil {
			return KindRefused
		}
		p.broken = true
		return KindLost
	}
	kind := n.c.dialect.Kind(err)
	if p == nil {
		return kind
	}
	if kind == KindOther {
		if !p.valid() {
			kind = KindLost
		}
	}
	if kind == KindRefused || kind == KindLost || kind == KindReadOnly {
		p.broken = true
		if kind != KindReadOnly {
			p.node.errors.Add(1)
		}
	}
	return kind
}

func (n *conn) failed(p *phys, err error) {
	if p != nil {
		_ = n.judge(p, err)
	}
}

// unbad hides driver.ErrBadConn from database/sql, which would repeat what we decided not to repeat.
func unbad(err error) error {
	if errors.Is(err, driver.ErrBadConn) {
		return errors.New("replica: connection lost: " + err.Error())
	}
	return err
}
