// Package mover moves slots from one shard to another while clients read and write them. It is told by actors, each a
// type in its own file:
//
//	preparer   makes the target refuse clients, and the source note changed keys
//	copier     walks the rows by key
//	capture    brings the keys that were noted to the target
//	verifier   compares checksums per slot while writers go on
//	fence      makes the source refuse writes, drains, verifies the rest, and opens the target afterwards
//	keeper     keeps the sources of a reversible job up to date
//	cleaner    deletes the rows that are not needed any more
//	pinner     gives one key a slot of its own
//	leases     waits until no process can act on an older map
//	throttle   limits rows per second
//
// A [Job] drives them by the table of phases in phases.go. Every step may be repeated from its start; where a job
// stands is in the map store, how far a copy came is in the target.
package mover
