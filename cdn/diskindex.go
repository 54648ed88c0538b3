package cdn

import (
	"maps"
	"slices"
)

// put indexes a record in place of an older one of the same variant. d.mu is held, or nobody else knows d.
func (d *disk) put(r *diskRef) {
	for _, old := range d.index[r.key] {
		if old.selectors == r.selectors && slices.Equal(old.vary, r.vary) {
			d.drop(old)
			break
		}
	}
	if len(d.index[r.key]) == 0 {
		d.keys.add(r.key)
	}
	d.index[r.key] = append(d.index[r.key], r)
	for _, t := range r.tags {
		if d.tags[t] == nil {
			d.tags[t] = map[*diskRef]struct{}{}
		}
		d.tags[t][r] = struct{}{}
	}
	d.bytes += r.size
	d.count++
}

func (d *disk) drop(r *diskRef) {
	refs := d.index[r.key]
	i := slices.Index(refs, r)
	if i < 0 {
		return
	}
	d.bytes -= r.size
	d.count--
	for _, t := range r.tags {
		if delete(d.tags[t], r); len(d.tags[t]) == 0 {
			delete(d.tags, t)
		}
	}
	if refs = slices.Delete(refs, i, i+1); len(refs) == 0 {
		delete(d.index, r.key)
		d.keys.remove(r.key)
	} else {
		d.index[r.key] = refs
	}
}

// matching returns the records that a purge hits, and looks at no others. d.mu is held.
func (d *disk) matching(m Match) (out []*diskRef) {
	if m.URL != "" {
		out = slices.Clone(d.index[m.URL])
		for _, key := range d.keys.prefixed(m.URL + "\x00") { // its slices
			out = append(out, d.index[key]...)
		}
		return out
	}
	if m.Tag != "" {
		return slices.Collect(maps.Keys(d.tags[m.Tag]))
	}
	for _, key := range d.keys.prefixed(m.Prefix) { // of all the prefix is empty
		out = append(out, d.index[key]...)
	}
	return out
}

func (d *disk) purgeRefs(m Match) {
	for _, r := range d.matching(m) {
		if m.Soft {
			r.soft = true
		} else {
			d.drop(r)
		}
	}
}
