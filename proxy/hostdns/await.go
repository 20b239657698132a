package hostdns

import (
	"context"
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// await returns when the zone has what there is of a name, or says why that is not known.
func (r *Resolver) await(ctx context.Context, name string) error {
	service, port, err := r.serviceOf(name)
	if err != nil {
		return err
	}
	r.opts.Control.Want(service)
	for {
		cfg, changed := r.opts.Config.Get()
		_, bound := r.opts.Bound.Get()
		if cfg != nil {
			done, err := r.try(service)
			if done && err == nil && port {
				err = portsOf(look(cfg, service))
			}
			if done || err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return &dnsserver.Failure{Code: dns.ExtendedErrorCodeNotReady, Text: clip(service + ": " + r.why(service))}
		case <-changed:
		case <-bound:
		}
	}
}

// serviceOf returns the service that a name speaks of, as the control plane names it, and whether it is a port's name.
func (r *Resolver) serviceOf(name string) (service string, port bool, err error) {
	labels := strings.Split(strings.TrimSuffix(name, "."+r.origin.String()), ".")
	for len(labels) > 0 && strings.HasPrefix(labels[0], "_") {
		labels, port = labels[1:], true
	}
	if len(labels) == 0 || len(labels) > 2 || labels[len(labels)-1] == "host" {
		return "", false, elsewhere("endpoints and hosts")
	}
	namespace := "default"
	if len(labels) == 2 {
		namespace = labels[1]
	}
	return labels[0] + "." + namespace + "." + r.opts.Domain, port, nil
}

// portsOf returns why it is not known which ports a service has.
func portsOf(a answer) error {
	switch {
	case a.cluster != nil && a.cluster.DNS == nil:
		return elsewhere("ports of services that no proxy stands for")
	case a.listener != nil && a.listener.PortLabels == nil:
		return elsewhere("ports without names in the configuration")
	}
	return nil
}

// elsewhere says that something is not told to mesh hosts: it may exist.
func elsewhere(what string) error {
	return &dnsserver.Failure{Code: dns.ExtendedErrorCodeNotSupported, Text: "mesh hosts answer names of services; " + what + " are answered by the DNS of mesh control"}
}

// try puts a service into the zone if that is known to be right, and reports whether the zone now says what there is.
func (r *Resolver) try(service string) (done bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cfg := r.opts.Config.Load() // under the lock, so that it is not older than what drop has seen
	a := look(cfg, service)
	switch {
	case a.cluster != nil:
		r.opts.Places.Keep(service)
	case a.listener != nil:
		outcome := r.opts.Bound.Load()
		for _, at := range a.listener.Addresses {
			err, tried := outcome[at]
			if err != nil {
				return false, &dnsserver.Failure{Code: dns.ExtendedErrorCodeOther, Text: clip(fmt.Sprintf("%s: %v", service, err))}
			}
			if !tried {
				return false, nil
			}
		}
	case cfg.Absent[service]:
		return true, nil
	default:
		if why := r.opts.Places.Withheld(service); why != "" {
			return false, &dnsserver.Failure{Code: dns.ExtendedErrorCodeOther, Text: clip(service + ": " + why)}
		}
		return false, nil
	}
	if old, ok := r.answered[service]; ok && old.listener == a.listener && old.cluster == a.cluster {
		return true, nil
	}
	a.branch = r.branch(service, a)
	r.answered[service] = a
	r.change(map[string]*dnsserver.Branch{service: a.branch})
	return true, nil
}

// why says what is waited for.
func (r *Resolver) why(service string) string {
	if cfg := r.opts.Config.Load(); cfg != nil && look(cfg, service).listener != nil {
		return "its address is not bound yet"
	}
	return r.opts.Control.Unknown(service)
}

// clip bounds what is told: an answer over UDP has to have room for it.
func clip(text string) string {
	const most = 300
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
