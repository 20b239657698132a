package registry

// Rules say how the views of the sources make one service. The zero Rules are the union of all.
type Rules struct {
	Default  Rule
	Services map[Name]Rule
}

// Rule is one of: union (the zero Rule), prefer, failover, weights. At most one field is set.
//
// Endpoints that a rule keeps traffic from stay known: they are in Service.Standby.
type Rule struct {
	// Prefer takes the endpoints of the first of these sources that has any; sources not named come last, in their
	// configured order.
	Prefer []string
	// Failover takes the endpoints of the first of these sources that has one that is serving; if none has, of the first
	// that has any. Sources not named come last, in their configured order.
	Failover []string
	// Weights shares the traffic between sources, whatever the number of their endpoints: a source's share goes to its
	// endpoints that serve, by their own weights. A source of weight 0, or not named, gets nothing.
	Weights map[string]uint32
}
