package geodns

import "sync/atomic"

// What a server counts.
const (
	countQueries = iota
	countTCP
	countECS
	countNoError
	countNoData
	countNX
	countRefused
	countForm
	countFail
	countTruncated
	countDropped
	counts
)

// worker is what the goroutine of one socket has to itself: neither scratch nor counters are shared between cores.
type worker struct {
	q     query
	tally [counts]uint64        // since the last publish: plain additions, for an atomic one costs as much as a lookup
	count [counts]atomic.Uint64 // what Stats reads
	_     [64]byte              // the next worker's counters stand in another cache line
}

func (s *Server) worker() *worker {
	w := new(worker)
	s.mu.Lock()
	s.serving[w] = true
	s.mu.Unlock()
	return w
}

// publish shows Stats what was counted. It is called before the answers leave, so that who has an answer finds it
// counted.
func (w *worker) publish() {
	for i := range w.tally {
		if n := w.tally[i]; n > 0 {
			w.count[i].Add(n)
			w.tally[i] = 0
		}
	}
}

// retire keeps what a worker counted.
func (s *Server) retire(w *worker) {
	w.publish()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.serving, w)
	for i := range s.past {
		s.past[i] += w.count[i].Load()
	}
}

func (r *reply) outcome() int {
	switch {
	case r.tc:
		return countTruncated
	case r.rcode == rcodeNX:
		return countNX
	case r.rcode == rcodeRefused:
		return countRefused
	case r.rcode == rcodeForm || r.rcode == rcodeBadVers || r.rcode == rcodeNotImp:
		return countForm
	case r.rcode == rcodeFail:
		return countFail
	case r.an == 0 && r.aa:
		return countNoData
	}
	return countNoError
}

// ServerStats are counters of a [Server].
type ServerStats struct {
	Queries   uint64 `metric:"queries_total,counter,DNS queries read"`
	TCP       uint64 `metric:"tcp_queries_total,counter,Of them over TCP"`
	ECS       uint64 `metric:"ecs_queries_total,counter,Queries with a client subnet"`
	NoError   uint64 `metric:"noerror_total,counter,Answers with data"`
	NoData    uint64 `metric:"nodata_total,counter,The name exists but not the type"`
	NXDomain  uint64 `metric:"nxdomain_total,counter,No such name"`
	Refused   uint64 `metric:"refused_total,counter,Names of no zone of ours and transfers"`
	FormErr   uint64 `metric:"formerr_total,counter,Queries that are malformed or of a kind not implemented"`
	ServFail  uint64 `metric:"servfail_total,counter,No healthy data center"`
	Truncated uint64 `metric:"truncated_total,counter,Answers cut to make the client use TCP"`
	Dropped   uint64 `metric:"dropped_total,counter,Packets without an answer: not queries or rate limited"`
	TCPConns  int    `metric:"tcp_connections,gauge,Open TCP connections"`
}

// Stats returns the counters.
func (s *Server) Stats() ServerStats {
	s.mu.Lock()
	conns, c := len(s.conns), s.past
	for w := range s.serving {
		for i := range c {
			c[i] += w.count[i].Load()
		}
	}
	s.mu.Unlock()
	return ServerStats{
		Queries: c[countQueries], TCP: c[countTCP], ECS: c[countECS], NoError: c[countNoError], NoData: c[countNoData],
		NXDomain: c[countNX], Refused: c[countRefused], FormErr: c[countForm], ServFail: c[countFail],
		Truncated: c[countTruncated], Dropped: c[countDropped], TCPConns: conns,
	}
}
