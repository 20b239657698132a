package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// dnsSample is how many questions are put to all before the first is measured.
const dnsSample = 200

// checkAnswers asks each peer some of the questions as dnsperf does and fails those that answer otherwise than we do: another
// rcode, other records, or another number of records that go along with them.
func (s *stage) checkAnswers(w *dnsWork) {
	want := map[string]dnsAnswer{}
	for _, p := range slices.Clone(s.peers) { // ours is the first
		var wrong error
		for _, question := range questions(w.ask, s.o.services)[:min(dnsSample, s.o.services)] {
			got, err := w.exchange(p, question)
			if p.name == ourDNS {
				want[question] = got
			}
			if err == nil && got != want[question] {
				err = fmt.Errorf("answered %+v, want as %s: %+v", got, ourDNS, want[question])
			}
			if err != nil {
				wrong = errors.Join(wrong, fmt.Errorf("ask %s: %w", question, err))
				break
			}
		}
		if wrong != nil {
			s.remove(p, wrong)
		}
	}
}

// dnsAnswer is what has to be equal of an answer, in any order. Signatures are told by what they are of: each server's may be made at
// another time.
type dnsAnswer struct {
	rcode                 int
	aa, tc                bool
	answer                string
	authority, additional int // records, without OPT
}

func (w *dnsWork) exchange(p *peer, question string) (dnsAnswer, error) {
	name, qtype, _ := strings.Cut(question, " ")
	m := new(dns.Msg).SetQuestion(name, dns.StringToType[qtype])
	m.RecursionDesired = true // as dnsperf has it
	if w.edns || w.do {
		m.SetEdns0(4096, w.do)
	}
	r, _, err := (&dns.Client{Net: w.over, Timeout: 5 * time.Second}).Exchange(m, p.addr.String())
	if err != nil {
		return dnsAnswer{}, err
	}
	var lines []string
	for _, rr := range r.Answer {
		if sig, ok := rr.(*dns.RRSIG); ok {
			lines = append(lines, "signed "+dns.TypeToString[sig.TypeCovered])
			continue
		}
		lines = append(lines, rr.String())
	}
	slices.Sort(lines)
	additional := len(r.Extra)
	if r.IsEdns0() != nil {
		additional--
	}
	return dnsAnswer{r.Rcode, r.Authoritative, r.Truncated, strings.Join(lines, "\n"), len(r.Ns), additional}, nil
}
