package shard

import (
	"errors"

	"github.com/tierkit/tierkit/internal/hooks"
	"github.com/tierkit/tierkit/internal/usercode"
)

// Hooks are called one at a time, in the order of what they report, on a goroutine of their own: they hold up neither
// operations nor movers, may call any method of the Cluster, and may panic, which is logged and counted in Stats. A
// hook that falls 1024 calls behind misses calls, and none begins after Close. Any may be nil.
type Hooks struct {
	// Refused is called when a fence or a stale map refused an attempt on a slot. Attempts count from 0.
	Refused func(slot Slot, shard ID, attempt int)
	// MapChanged is called when a newer map was installed.
	MapChanged func(before, after *Map)
	// Phase is called when a job of this process enters a phase.
	Phase func(p Progress)
}

// JoinHooks calls a, then b. Either may be nil.
func JoinHooks(a, b *Hooks) *Hooks {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	return &Hooks{
		Refused:    hooks.Join3(a.Refused, b.Refused),
		MapChanged: hooks.Join2(a.MapChanged, b.MapChanged),
		Phase:      hooks.Join1(a.Phase, b.Phase),
	}
}

// call queues a call of a hook, or of a job's Progress.
func (c *Cluster) call(on *usercode.Serial, f func()) {
	once := func() {
		if c.ctx.Err() == nil {
			f()
		}
	}
	if !on.Add(once) {
		c.hookFailed(errHookBehind)
	}
}

var errHookBehind = errors.New("shard: a hook is 1024 calls behind and misses calls")

// hookFailed reports a hook that panicked, ended its goroutine or is too slow.
func (c *Cluster) hookFailed(err error) {
	c.hookErrors.Add(err)
	c.warn.Warn("hook", "shard: a hook or Progress function failed", "err", err)
}
