package queue

import (
	"time"
)

// read reads leased messages from disk. Messages that lie behind each other, as they do in a backlog, are read at once.
func (e *engine) read(g *groupState, refs []ref, token uint64, deadline int64) []*Delivery {
	until := e.start.Add(time.Duration(deadline))
	ds := make([]*Delivery, 0, len(refs))
	var damaged, expired, early []ref
	var notBefore []int64
	now := time.Now()
	for i := 0; i < len(refs); {
		j, end := i+1, refs[i].offset+refs[i].length
		for j < len(refs) && refs[j].segment == refs[i].segment && refs[j].offset >= end &&
			refs[j].offset-end < 4096 && refs[j].offset+refs[j].length-refs[i].offset < maxRunLength {
			end = refs[j].offset + refs[j].length
			j++
		}
		e.state.Lock()
		seg := e.segments[refs[i].segment]
		e.state.Unlock()
		buf := make([]byte, end-refs[i].offset)
		_, err := seg.file.ReadAt(buf, int64(refs[i].offset))
		for k := i; k < j; k++ {
			r := refs[k]
			at := r.offset - refs[i].offset
			m, published, ok := Message{}, int64(0), false
			if err == nil {
				m, published, ok = decodeMessage(buf[at:at+r.length:at+r.length], seg.epoch)
			}
			switch {
			case !ok:
				damaged = append(damaged, r)
				e.corrupt(seg, damage{int64(r.offset), int64(r.length), r.seq}, "message fails its checksum")
			case m.TTL > 0 && r.attempts == 1 && !r.redriven && now.UnixNano()-published >= int64(m.TTL):
				expired = append(expired, r)
			case unixNano(m.NotBefore) > now.UnixNano() && r.attempts == 1: // was behind another of its key
				early = append(early, r)
				notBefore = append(notBefore, unixNano(m.NotBefore))
			default:
				ds = append(ds, &Delivery{Message: m, Seq: r.seq, Attempt: int(r.attempts),
					Published: time.Unix(0, published),
					Deadline:  until, Token: token + uint64(k)})
			}
		}
		i = j
	}
	e.state.Lock()
	defer e.state.Unlock()
	for _, r := range refs {
		if seg := e.segments[r.segment]; seg != nil {
			if seg.pins--; seg.pins == 0 && seg.live == 0 {
				e.kickCleaner()
			}
		}
	}
	for i, r := range early {
		if l := g.leases[r.seq]; l != nil {
			g.unlease(l)
			_, _ = e.note(kindRelease, false, func(b []byte) []byte { return appendSeqs(b, g.id, []ref{r}) })
			l.r.attempts--
			g.back(l.r, notBefore[i], time.Now().UnixNano())
		}
	}
	e.stats.ttl.Add(int64(len(expired)))
	if drop := append(expired, damaged...); len(drop) > 0 {
		_, _ = e.note(kindDone, false, func(b []byte) []byte { return appendSeqs(b, g.id, drop) })
		for _, r := range drop {
			if l := g.leases[r.seq]; l != nil {
				g.unlease(l)
			}
			e.gone(g, r)
		}
	}
	return ds
}

func decodeMessage(rec []byte, epoch uint64) (m Message, published int64, ok bool) {
	k, _, payload, n, ok := parseRecord(rec, epoch)
	if !ok || n != len(rec) {
		return m, 0, false
	}
	p := reads(payload)
	if k == kindCopy {
		p.copied()
	} else if k != kindPublish {
		return m, 0, false
	}
	m, published = p.message()
	return m, published, !p.Bad
}
