package cache

import (
	"errors"
	"time"
)

// BackOptions configure a write-back cache. The zero value is good.
type BackOptions struct {
	// Delay is how long a write waits for later ones of its key to replace it. Default 100 ms; negative: none.
	Delay time.Duration
	// MaxPending bounds the keys waiting to be written; at the bound Set waits. Default 10,000.
	MaxPending int
	// MaxParked bounds the keys that are parked; at the bound those that fail stay pending instead, so that a store
	// that is away for long stops the writers and does not fill the memory. Default MaxPending.
	MaxParked int
	// Workers write different keys at the same time. Default 4.
	Workers int
	// Attempts after which a key is parked. Default 10, negative: no limit.
	Attempts int
	// RetryBase and RetryMax shape the backoff between attempts. Defaults 50 ms and 5 s.
	RetryBase, RetryMax time.Duration
	// Timeout bounds one attempt. Default 10 s.
	Timeout time.Duration
}

func (o BackOptions) withDefaults() (BackOptions, error) {
	if o.MaxPending < 0 || o.MaxParked < 0 || o.Workers < 0 || o.RetryBase < 0 || o.RetryMax < 0 || o.Timeout < 0 {
		return o, errors.New("cache: a field of BackOptions (MaxPending, MaxParked, Workers, RetryBase, RetryMax, Timeout) is negative")
	}
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	or(&o.Delay, 100*time.Millisecond)
	or(&o.RetryBase, 50*time.Millisecond)
	or(&o.RetryMax, 5*time.Second)
	or(&o.Timeout, 10*time.Second)
	if o.MaxPending == 0 {
		o.MaxPending = 10_000
	}
	if o.MaxParked == 0 {
		o.MaxParked = o.MaxPending
	}
	if o.Workers == 0 {
		o.Workers = 4
	}
	if o.Attempts == 0 {
		o.Attempts = 10
	}
	return o, nil
}

// BackStats are the counters of a [Back]; those of the journal are 0 without one.
type BackStats struct {
	Writes         int64 `metric:"writes_total,counter,Writes taken from callers"`
	Coalesced      int64 `metric:"coalesced_total,counter,Writes that took the place of a pending one of their key"`
	Stored         int64 `metric:"stored_total,counter,Values written to the store"`
	Failures       int64 `metric:"failures_total,counter,Attempts that failed"`
	Pending        int64 `metric:"pending,gauge,Keys waiting to be written"`
	Parked         int64 `metric:"parked,gauge,Keys given up until Retry or a newer write"`
	Replayed       int64 `metric:"journal_replayed,gauge,Keys that the journal held when it was opened"`
	JournalEntries int64 `metric:"journal_entries,gauge,Writes in the journal that are not in the store"`
	JournalBytes   int64 `metric:"journal_bytes,gauge,Size of the journal's files"`
	JournalWritten int64 `metric:"journal_written_bytes_total,counter,Bytes written to the journal"`
	JournalSyncs   int64 `metric:"journal_syncs_total,counter,Times the journal was made durable"`
}

// Stats is cheap and safe at any time.
func (b *Back[K, V]) Stats() BackStats {
	b.mu.Lock()
	st := BackStats{Writes: b.stats.writes, Coalesced: b.stats.coalesced, Stored: b.stats.stored,
		Failures: b.stats.failures,
		Pending:  int64(len(b.pending)), Parked: int64(len(b.parked))}
	b.mu.Unlock()
	if b.log != nil {
		j := b.log.journal.Stats()
		st.Replayed, st.JournalEntries, st.JournalBytes, st.JournalWritten, st.JournalSyncs = b.log.replayed, j.Entries,
			j.Bytes, j.Written, j.Syncs
	}
	return st
}
