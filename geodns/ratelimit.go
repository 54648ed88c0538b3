package geodns

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// limiter counts answers per client network and second, so that the server is of no use for flooding a victim whose
// address is forged. Networks share a fixed table by hash: it can't grow, and a collision costs a real client at most a
// retry by TCP, because every second refusal is a truncated answer ("slip").
type limiter struct {
	perSecond uint32
	cells     [1 << 16]atomic.Uint64 // second in the upper half, count in the lower
}

type limitVerdict uint8

const (
	limitPass limitVerdict = iota
	limitSlip
	limitDrop
)

func newLimiter(perSecond int) *limiter { return &limiter{perSecond: uint32(perSecond)} }

func (l *limiter) take(client netip.Addr, now time.Time) limitVerdict {
	bits := 24
	if client.Is6() {
		bits = 56
	}
	cell := &l.cells[prefixHash(client, bits)>>48]
	second := uint64(uint32(now.Unix())) << 32
	for {
		old := cell.Load()
		next := old + 1
		if old>>32 != second>>32 {
			next = second | 1
		}
		if cell.CompareAndSwap(old, next) {
			switch n := uint32(next); {
			case n <= l.perSecond:
				return limitPass
			case n%2 == 0:
				return limitSlip
			}
			return limitDrop
		}
	}
}
