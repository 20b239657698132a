package registrytest

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Names returns the names of the services that all cases but Large put, for a registry that must be told them before.
// They are in the default namespace.
func Names() []string {
	return append([]string{"web", "api", "auth"}, changing...)
}

// changing are the services that changes may touch; the others stay as they are put.
var changing = []string{"cart", "jobs", "mail", "news", "pay", "shop", "users"}

// changes are random changes of the truth, each by one service. They are of one goroutine.
type changes struct {
	*suite
	rand     *rand.Rand
	services []*standing
	made     int
}

// standing is how a service stands that changes touches.
type standing struct {
	name   string
	number uint16
	there  [maxEndpoints]bool
}

const maxEndpoints = 6

// newChanges makes changes that touch the services of those names and know what was put of them.
func (s *suite) newChanges(r *rand.Rand, names ...string) *changes {
	c := &changes{suite: s, rand: r}
	for _, name := range names {
		c.services = append(c.services, &standing{name: name, number: 18080})
	}
	return c
}

func (c *standing) endpoints() int {
	n := 0
	for _, there := range c.there {
		if there {
			n++
		}
	}
	return n
}

// kinds are the ways in which a service may change. Each returns false where it does not apply.
var kinds = [...]func(*changes, *standing) bool{(*changes).found, (*changes).grow, (*changes).move, (*changes).shrink, (*changes).dissolve}

// step makes one random change.
func (c *changes) step() {
	c.Helper()
	for !kinds[c.rand.IntN(len(kinds))](c, c.services[c.rand.IntN(len(c.services))]) {
	}
}

// each makes one change of every kind, in random order where that is possible.
func (c *changes) each() {
	c.Helper()
	for _, kind := range c.rand.Perm(len(kinds)) {
		for tries := 0; !kinds[kind](c, c.services[c.rand.IntN(len(c.services))]); tries++ {
			if tries == 100 { // no service is away, or there
				c.step()
				break
			}
		}
	}
}

func (c *changes) found(s *standing) bool {
	if s.endpoints() > 0 {
		return false
	}
	for i := range s.there {
		s.there[i] = c.rand.IntN(2) == 0
	}
	s.there[c.rand.IntN(maxEndpoints)] = true
	return c.apply(s)
}

func (c *changes) grow(s *standing) bool {
	if n := s.endpoints(); n == 0 || n == maxEndpoints {
		return false
	}
	c.turn(s, false)
	return c.apply(s)
}

func (c *changes) shrink(s *standing) bool {
	if s.endpoints() < 2 {
		return false
	}
	c.turn(s, true)
	return c.apply(s)
}

func (c *changes) move(s *standing) bool {
	if s.endpoints() == 0 {
		return false
	}
	s.number++
	return c.apply(s)
}

func (c *changes) dissolve(s *standing) bool {
	if s.endpoints() == 0 {
		return false
	}
	clear(s.there[:])
	return c.apply(s)
}

// turn turns a random endpoint that is there, or not.
func (c *changes) turn(s *standing, there bool) {
	for {
		if i := c.rand.IntN(maxEndpoints); s.there[i] == there {
			s.there[i] = !there
			return
		}
	}
}

func (c *changes) apply(s *standing) bool {
	c.Helper()
	c.made++
	whole := c.service(s.name, s.number, maxEndpoints)
	made := *whole
	made.Endpoints = nil
	for i, there := range s.there {
		if there {
			made.Endpoints = append(made.Endpoints, whole.Endpoints[i])
		}
	}
	if len(made.Endpoints) == 0 {
		c.delete(made.Name)
	} else {
		c.put(&made)
	}
	return true
}

// seed returns the seed of the case's random choices: HOSTMESH_SEED, else another one each time. It is printed.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := rand.Uint64()
	if text := os.Getenv("HOSTMESH_SEED"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("HOSTMESH_SEED is %q, want a number", text)
		}
	}
	t.Logf("HOSTMESH_SEED=%d repeats the choices", n)
	return n
}

func (s *suite) random(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, stream)) }
