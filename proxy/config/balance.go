package config

import "time"

// Balancing is how a cluster chooses among its hosts, beyond its Policy. The zero value is Envoy's defaults.
type Balancing struct {
	// Overprovisioning is how many percent of its hosts' requests a priority, or a locality, of which some hosts are not
	// healthy is taken to bear. 0: 140.
	Overprovisioning uint32
	// LocalityWeighted: a priority's requests are divided among its localities by Endpoint.LocalityWeight.
	LocalityWeighted bool

	Choice       *Choice    // of LeastRequest; nil: 2 hosts, a bias of 1
	SlowStart    *SlowStart // of RoundRobin and LeastRequest; nil: none
	Ring         *Ring      // nil: 1,024 to 8,388,608 entries by xxHash
	MaglevSize   uint32     // of the table, a prime; 0: 65,537
	HashHostname bool       // RingHash and Maglev know a host by its Hostname, not its address
}

// Choice says how the host with the fewest requests is found.
type Choice struct {
	Hosts uint32 // so many random hosts are compared where all weights are equal; at least 2
	// Bias is how much requests count against a host where weights are not equal: a host's weight is divided by its requests
	// and one, to the power of Bias. Not less than 0.
	Bias float64
	All  bool // all hosts are compared where all weights are equal
}

// SlowStart gives a host that is new, or has become healthy, its requests by and by. Its weight is multiplied by the part of
// Window that has passed, to the power of 1 / Aggression.
type SlowStart struct {
	Window     time.Duration // more than 0
	Aggression float64       // more than 0
	MinWeight  float64       // the least factor, 0 to 1
}

// Ring is the size of a hash ring and how it is filled.
type Ring struct {
	Min, Max uint32 // entries; Max is at least Min
	Murmur   bool   // MurmurHash 2 takes the place of xxHash
}

// HashPolicy is one of the values of a request that choose its host with RingHash and Maglev. Exactly one of Header, Cookie and
// SourceIP is set.
type HashPolicy struct {
	Header   string // lower case; all lines of the field count
	Cookie   string
	SourceIP bool // the client's address
	Terminal bool // when this or a policy before it had a value, those after it do not count
}
