package lb

import "time"

// RoundRobin takes the backends in turn and ignores weights.
func RoundRobin() Policy { return nil }

// WeightedRoundRobin takes the backends in turn in proportion to their weights, interleaved as smoothly as nginx does
// (longest run and prefix deviation are minimal for its order), from a table that needs one atomic addition per pick.
func WeightedRoundRobin() Policy { return nil }

// LeastConnections takes a backend with the fewest requests in flight, ties at random. Exact, O(n).
func LeastConnections() Policy { return nil }

// WeightedLeastConnections takes a backend with the fewest requests in flight per weight. Exact, O(n).
func WeightedLeastConnections() Policy { return nil }

// Random takes any backend, in proportion to the weights.
func Random() Policy { return nil }

// PowerOfTwo draws two backends by weight and takes the one with fewer requests in flight per weight (Mitzenmacher,
// "The Power of Two Choices in Randomized Load Balancing", 2001). The default: O(1), no herding among many balancers.
func PowerOfTwo() Policy { return nil }

// PeakEWMA draws two backends and takes the one with the lower cost: the peak-sensitive, exponentially decaying mean of its
// latency times its requests in flight plus one (as Finagle does). decay is the time constant; 0 means 10 s. A failure
// counts as a slow answer, so that a host that fails fast gains no traffic.
func PeakEWMA(decay time.Duration) Policy { return nil }

// SourceHash sends a key (by default the client's address) to the same backend while the set stays as it is.
func SourceHash() Policy { return nil }

// ConsistentHash sends a key to the same backend, moves few keys when the set changes, and passes a key on to the next
// choice when its backend holds more than bound times the mean load (Mirrokni et al., "Consistent Hashing with Bounded
// Loads", 2018). bound 0 means 1.25; negative: no bound. All balancers with the same endpoints agree, in whatever order
// they learned of them.
func ConsistentHash(bound float64) Policy { return nil }

// Maglev sends a key to the same backend by the lookup table of Eisenbud et al., "Maglev" (NSDI 2016): the most even
// spread and the cheapest pick, at slightly more movement than ConsistentHash when the set changes.
func Maglev() Policy { return nil }

// Rendezvous sends a key to the backend with the highest score for it (Thaler and Ravishankar 1998), weighted. The
// least movement possible; O(n).
func Rendezvous() Policy { return nil }
