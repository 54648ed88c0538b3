package geodns

// Choice is one centre in a tier: an index into the router's DCs and its share of the tier.
type Choice struct {
	DC     int
	Weight float64
}

// Policy orders the centres for a location, before health is looked at.
type Policy interface {
	// Tiers returns tiers of preference: the first tier with a healthy centre serves; within a tier clients are
	// shared by weight, each client prefix always to the same centre. It is called at compile time, once per distinct location, never per
	// request.
	Tiers(at Location, dcs []DC) [][]Choice
}

// Nearest orders the centres by great-circle distance less their bias. An unknown location uses the order of the DCs.
func Nearest() Policy { return nil }

// Failover uses the named centres in this order, wherever the client is.
func Failover(names ...string) Policy { return nil }

// Weighted shares clients over all centres by DC.Weight.
func Weighted() Policy { return nil }

// GeoMap chooses a policy by where the client is: the keys are "AS64500" (network), "10.0.0.0/8" (addresses), "DE"
// (country), "EU" as "continent:EU", the most specific wins; "" is the default.
func GeoMap(m map[string]Policy) Policy { return nil }

// Chain appends the tiers of several policies; a centre is used where it stands first.
func Chain(ps ...Policy) Policy { return nil }
