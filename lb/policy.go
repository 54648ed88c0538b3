package lb

// Policy builds a [Picker] for a set of backends. It is called each time the set, a weight or a state changes, never
// on the path of a request. Policies of your own implement it too.
type Policy interface {
	// Picker is given the backends that may be picked: at least one, in the order of their IDs, so that all balancers
	// that know the same endpoints build the same picker. The slice belongs to the picker.
	Picker(backends []*Backend) Picker
}

// Picker chooses one backend. It is safe for concurrent use, takes no lock that blocks and does not allocate.
type Picker interface {
	Pick(k Key) *Backend
}

// Key is what a pick may depend on.
//
// It fits into four words, which the compiler passes in registers.
type Key struct {
	Hash     uint64 // of the client's address, a header, a cookie, ...; see HashString
	Keyed    bool   // false: no key, hash policies choose at random
	Exempt   bool   // the adaptive limit neither limits nor counts the request
	Priority int8   // see Adaptive.Priority
	Sticky   string // ID of the backend that an earlier pick chose for this client; honored while it is usable
}

// exempt is the rank of requests that the adaptive limit does not see.
const exempt = -128

// rank returns the priority, or exempt.
func (k Key) rank() int8 {
	if k.Exempt {
		return exempt
	}
	return max(k.Priority, exempt+1)
}
