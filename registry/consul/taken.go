package consul

import "context"

// expect begins to follow a service that was not there at the index missed: nothing that was said of it by then counts,
// not even what an earlier follow asked for.
func (d *datacenter) expect(name string, missed uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.taken[name]; !ok { // else it is followed in another way from now on
		d.taken[name] = missed
	}
}

// leave forgets a service that is followed no more.
func (d *datacenter) leave(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.taken, name)
}

// takenAt returns the index of what was last taken of a service.
func (d *datacenter) takenAt(name string) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.taken[name]
}

// take takes over what an answer says of a service, after a second question when instances are missing from it: a
// streamed answer does not tell that ACLs hide them, and an empty one may be all that an anonymous reader sees.
//
// It tells false, and takes nothing, when the answer is older than what was taken of the service. That happens: second
// questions go to the leader, and what Consul streams, or a server that lags behind says, comes after it. Only with
// what the leader says may the index go back, as a restored snapshot makes it. So for an answer of the leader's that
// was asked for when the index of what had been taken was since, that one does not count; for others since is 0.
func (d *datacenter) take(ctx context.Context, name string, a answer, since uint64) (bool, error) {
	if a.filtered {
		return false, hidden(name)
	}
	if d.isOld(name, a.index, since) {
		return false, nil
	}
	before := d.board.get(d.name, name)
	p, err := d.cfg.parse(name, a.body, before)
	if err != nil {
		return false, err
	}
	if p.instances == 0 || p.lost(before) && (a.streamed || d.anon.Load()) {
		since = d.takenAt(name)
		if p, a.index, err = d.confirm(ctx, name, before); err != nil {
			return false, err
		}
	}
	return d.set(name, p, a.index, since), nil
}

// isOld tells whether an index is lower than that of what was taken, which is not only since.
func (d *datacenter) isOld(name string, index, since uint64) bool {
	taken := d.takenAt(name)
	return index < taken && taken != since
}

// set puts a part on the board unless it is old or its service is followed no more.
func (d *datacenter) set(name string, p *part, index, since uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	taken, followed := d.taken[name]
	if !followed || index < taken && taken != since {
		return false
	}
	d.taken[name] = index
	if p.instances > 0 {
		d.seen[name] = index
	} else {
		delete(d.seen, name)
	}
	d.board.set(d.name, p)
	return true
}
