package upstream

import (
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

// subset is a part of a cluster's hosts with turns of its own. The hosts, and so their connections, are the cluster's.
type subset struct {
	picker balance.Picker
	hosts  []*Host
	turns  []*balance.State // of hosts
}

// Active tells the picker of the hosts' requests.
func (s *subset) Active(i int) int { return s.hosts[i].requests() }

// choice is one of the sets of hosts to which a request may go.
type choice struct {
	subset *subset // nil: all hosts
	how    balance.How
}

// pickSubset chooses among the hosts that the request wants. Where a request goes is found out once for each set of labels
// that routes have, which configuration bounds.
func (c *Cluster) pickSubset(key balance.Key, tried []*Host) *Host {
	choices, known := c.choices[key.Labels]
	if !known {
		choices = c.choose(key.Labels)
	}
	for i := range choices {
		s := choices[i].subset
		var h *Host
		if s == nil {
			h = c.pick(&c.picker, c.hosts, key, tried)
		} else {
			h = c.pick(&s.picker, s.hosts, key, tried)
		}
		if h == nil {
			continue
		}
		switch choices[i].how {
		case balance.BySelector:
			c.Stats.Count[SubsetSelected]++
		case balance.ByFallback:
			c.Stats.Count[SubsetFallback]++
		case balance.ByPanic:
			c.Stats.Count[SubsetFallbackPanic]++
		}
		return h
	}
	return nil
}

// choose finds out where a request that wants these labels goes.
func (c *Cluster) choose(want config.Labels) []choice {
	var out []choice
	for _, found := range c.picker.Plan().Choices(want) {
		one := choice{how: found.How}
		if found.Name != "" {
			if one.subset = c.subset(found.Name); one.subset == nil {
				continue
			}
		}
		out = append(out, one)
	}
	c.choices[want] = out
	return out
}

// subset returns the subset of a name, which is made when it is first used; nil without such.
func (c *Cluster) subset(name config.Labels) *subset {
	if s := c.subsets[name]; s != nil {
		return s
	}
	plan := c.picker.Plan().Subset(name)
	if plan == nil {
		return nil
	}
	s := &subset{}
	s.picker.Init(c.rand, s)
	c.use(s, plan)
	c.subsets[name] = s
	return s
}

// useSubsets goes on with the subsets that the plan has still. Their turns go on.
func (c *Cluster) useSubsets(plan *balance.Plan) {
	if plan.Config().Subsets == nil {
		c.subsets, c.choices = nil, nil
		return
	}
	c.choices = map[config.Labels][]choice{}
	if c.subsets == nil {
		c.subsets = map[config.Labels]*subset{}
	}
	for name, s := range c.subsets {
		if next := plan.Subset(name); next != nil {
			c.use(s, next)
		} else {
			delete(c.subsets, name)
		}
	}
}

// use begins to pick by a plan of some of the hosts.
func (c *Cluster) use(s *subset, plan *balance.Plan) {
	known := make(map[*Host]*balance.State, len(s.hosts))
	for i, h := range s.hosts {
		known[h] = s.turns[i]
	}
	hosts, turns := make([]*Host, len(plan.Hosts)), make([]*balance.State, len(plan.Hosts))
	for i, e := range plan.Hosts {
		h := c.byAddr[e.Addr]
		if hosts[i], turns[i] = h, known[h]; turns[i] == nil {
			turns[i] = &balance.State{}
		}
	}
	s.picker.Use(plan, turns, c.now()) // saves the turns of the hosts as they were, and reads the others
	s.hosts, s.turns = hosts, turns
}
