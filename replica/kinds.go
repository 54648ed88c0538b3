package replica

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"syscall"
)

// netKind sorts what every driver shares: errors of the network and of database/sql.
func netKind(err error) (ErrorKind, bool) {
	switch {
	case err == nil:
		return KindOther, true
	case errors.Is(err, errProbeTimeout):
		return KindOther, true
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH),
		errors.Is(err, syscall.ENETUNREACH):
		return KindRefused, true
	case errors.Is(err, driver.ErrBadConn): // by its contract nothing was executed
		return KindRefused, true
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return KindOther, true
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE),
		errors.Is(err, net.ErrClosed):
		return KindLost, true
	}
	var ne net.Error
	if errors.As(err, &ne) {
		return KindLost, true
	}
	return KindOther, false
}

// sqlState is the SQLSTATE of an error of pgx or lib/pq.
func sqlState(err error) string {
	var s interface{ SQLState() string }
	if errors.As(err, &s) {
		return s.SQLState()
	}
	return ""
}

// mysqlNumber is the error number of go-sql-driver/mysql, found by the field's name so that this package need not
// import the driver.
func mysqlNumber(err error) uint64 {
	for e := err; e != nil; e = errors.Unwrap(e) {
		v := reflect.Indirect(reflect.ValueOf(e))
		if v.Kind() != reflect.Struct || !strings.HasSuffix(v.Type().Name(), "MySQLError") {
			continue
		}
		if f := v.FieldByName("Number"); f.IsValid() && f.CanUint() {
			return f.Uint()
		}
	}
	return 0
}
