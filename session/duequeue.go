package session

// due is when to look at a key; a record that was used meanwhile is then put back.
type due struct {
	at  int64
	key Key
}

// dueHeap is a binary heap without the interface calls of container/heap: it is in the path of every operation.
type dueHeap []due

func (h *dueHeap) push(d due) {
	*h = append(*h, d)
	s := *h
	for i := len(s) - 1; i > 0; {
		p := (i - 1) / 2
		if s[p].at <= s[i].at {
			return
		}
		s[p], s[i] = s[i], s[p]
		i = p
	}
}

func (h *dueHeap) pop() due {
	s := *h
	top, last := s[0], len(s)-1
	s[0] = s[last]
	s = s[:last]
	*h = s
	for i := 0; ; {
		c := 2*i + 1
		if c >= last {
			return top
		}
		if c+1 < last && s[c+1].at < s[c].at {
			c++
		}
		if s[i].at <= s[c].at {
			return top
		}
		s[i], s[c] = s[c], s[i]
		i = c
	}
}
