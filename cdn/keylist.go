package cdn

import (
	"slices"
	"sort"
	"strings"
)

// keyList is a sorted set of keys: what begins with a prefix is found without looking at anything else. It is a list of
// sorted blocks, so that an insertion moves a block's pointers at most. The strings are shared with their owner.
type keyList struct {
	blocks [][]string // none empty; sorted, and each within
}

const keyBlock = 256

// at is the block that holds key, or would.
func (l *keyList) at(key string) int {
	i := sort.Search(len(l.blocks), func(i int) bool { return l.blocks[i][0] > key })
	return max(0, i-1)
}

func (l *keyList) add(key string) {
	if len(l.blocks) == 0 {
		l.blocks = [][]string{{key}}
		return
	}
	b := l.at(key)
	i, found := slices.BinarySearch(l.blocks[b], key)
	if found {
		return
	}
	l.blocks[b] = slices.Insert(l.blocks[b], i, key)
	if block := l.blocks[b]; len(block) >= keyBlock {
		half := len(block) / 2
		l.blocks[b] = slices.Clip(slices.Clone(block[:half]))
		l.blocks = slices.Insert(l.blocks, b+1, slices.Clone(block[half:]))
	}
}

func (l *keyList) remove(key string) {
	if len(l.blocks) == 0 {
		return
	}
	b := l.at(key)
	i, found := slices.BinarySearch(l.blocks[b], key)
	if !found {
		return
	}
	if l.blocks[b] = slices.Delete(l.blocks[b], i, i+1); len(l.blocks[b]) == 0 {
		l.blocks = slices.Delete(l.blocks, b, b+1)
	} else if b > 0 && len(l.blocks[b-1])+len(l.blocks[b]) < keyBlock/2 { // few in many blocks: join neighbors
		l.blocks[b-1] = append(l.blocks[b-1], l.blocks[b]...)
		l.blocks = slices.Delete(l.blocks, b, b+1)
	}
}

// prefixed returns the keys that begin with prefix, in order.
func (l *keyList) prefixed(prefix string) (out []string) {
	if len(l.blocks) == 0 {
		return nil
	}
	b := l.at(prefix)
	i, _ := slices.BinarySearch(l.blocks[b], prefix)
	for ; b < len(l.blocks); b, i = b+1, 0 {
		for _, key := range l.blocks[b][i:] {
			if !strings.HasPrefix(key, prefix) {
				return out
			}
			out = append(out, key)
		}
	}
	return out
}
