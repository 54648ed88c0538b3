package replica

import (
	"strconv"
	"strings"
)

// mariaCovers compares MariaDB positions: per domain the sequence number decides. "0-1-57,1-2-9"
func mariaCovers(have, want string) bool {
	for w := range strings.SplitSeq(want, ",") {
		domain, seq, ok := mariaGTID(w)
		if !ok {
			continue
		}
		reached := false
		for h := range strings.SplitSeq(have, ",") {
			if d, s, ok := mariaGTID(h); ok && d == domain {
				reached = s >= seq
				break
			}
		}
		if !reached {
			return false
		}
	}
	return true
}

func mariaGTID(s string) (domain, seq uint64, ok bool) {
	s = strings.TrimSpace(s)
	a, rest, ok1 := strings.Cut(s, "-")
	_, c, ok2 := strings.Cut(rest, "-")
	if !ok1 || !ok2 {
		return 0, 0, false
	}
	domain, err1 := strconv.ParseUint(a, 10, 32)
	seq, err2 := strconv.ParseUint(c, 10, 64)
	return domain, seq, err1 == nil && err2 == nil
}

// mariaOffset is the sum of the sequence numbers: with one domain, which is usual, the number of transactions.
func mariaOffset(gtid string) (n uint64) {
	for g := range strings.SplitSeq(gtid, ",") {
		_, seq, _ := mariaGTID(g)
		n += seq
	}
	return n
}

// mysqlCovers reports whether a GTID set of MySQL ("uuid:1-5:7,uuid2:1-3") contains another.
func mysqlCovers(have, want string) bool {
	for w := range strings.SplitSeq(want, ",") {
		uuid, ranges, ok := strings.Cut(strings.TrimSpace(w), ":")
		if !ok {
			continue
		}
		for r := range strings.SplitSeq(ranges, ":") {
			from, to, ok := interval(r)
			if ok && !mysqlContains(have, uuid, from, to) {
				return false
			}
		}
	}
	return true
}

func mysqlContains(have, uuid string, from, to uint64) bool {
	for h := range strings.SplitSeq(have, ",") {
		u, ranges, ok := strings.Cut(strings.TrimSpace(h), ":")
		if !ok || !strings.EqualFold(u, uuid) {
			continue
		}
		for r := range strings.SplitSeq(ranges, ":") {
			if a, b, ok := interval(r); ok && a <= from && to <= b {
				return true
			}
		}
	}
	return false
}

func interval(s string) (from, to uint64, ok bool) {
	a, b, two := strings.Cut(strings.TrimSpace(s), "-")
	from, err := strconv.ParseUint(a, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	if !two {
		return from, from, true
	}
	to, err = strconv.ParseUint(b, 10, 64)
	return from, to, err == nil
}

// mysqlOffset is the number of transactions in a set.
func mysqlOffset(set string) (n uint64) {
	for g := range strings.SplitSeq(set, ",") {
		_, ranges, _ := strings.Cut(g, ":")
		for r := range strings.SplitSeq(ranges, ":") {
			if a, b, ok := interval(r); ok {
				n += b - a + 1
			}
		}
	}
	return n
}
