package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// said is an answer that is compared: the sections' records as text, sorted.
type said struct {
	rcode    int
	aa, tc   bool
	sections [3][]string
}

const (
	answers = iota
	authority
	additional
)

func read(m *dns.Msg) *said {
	s := &said{rcode: m.Rcode, aa: m.Authoritative, tc: m.Truncated}
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, r := range section {
			if opt, ok := r.(*dns.OPT); ok {
				s.add(i, fmt.Sprintf("OPT version %d size %d do %v", opt.Version(), opt.UDPSize(), opt.Do()))
				for _, o := range opt.Option {
					s.add(i, fmt.Sprintf("OPT option %d", o.Option()))
				}
				continue
			}
			if sig, ok := r.(*dns.RRSIG); ok { // each server's is another: when it was made, how long it holds, what is random in it
				made := *sig
				made.Signature, made.Inception, made.Expiration = "", 0, 0
				r = &made
			}
			s.add(i, strings.ToLower(r.String()))
		}
	}
	for i := range s.sections {
		slices.Sort(s.sections[i])
	}
	return s
}

func (s *said) add(section int, line string) { s.sections[section] = append(s.sections[section], line) }

// drop takes records out of a section and returns how many.
func (s *said) drop(section int, what func(line string) bool) int {
	before := len(s.sections[section])
	s.sections[section] = slices.DeleteFunc(s.sections[section], what)
	return before - len(s.sections[section])
}

func (s *said) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s aa=%v tc=%v\n", dns.RcodeToString[s.rcode], s.aa, s.tc)
	for i, lines := range s.sections {
		for _, line := range lines {
			fmt.Fprintf(&b, "  %s: %s\n", [...]string{"answer", "authority", "additional"}[i], line)
		}
	}
	return b.String()
}

// column is a column of a record's text: the owner is 0, the type 3, the data's first is 4.
func column(line string, n int) string {
	if f := strings.Fields(line); n < len(f) {
		return f[n]
	}
	return ""
}

// of says whether a record is of a type, or a signature of such.
func of(types ...string) func(string) bool {
	return func(line string) bool {
		what := column(line, 3)
		if what == "rrsig" {
			what = column(line, 4)
		}
		return slices.Contains(types, strings.ToUpper(what))
	}
}

// difference is one that is allowed: mend leaves both answers alike, if they differ in nothing else.
type difference struct {
	name string // as docs/dns.md has it
	mend func(q shape, ours, theirs *said)
}

func differences() []difference {
	return []difference{
		{"what there is", func(_ shape, ours, theirs *said) {
			if len(ours.sections[answers]) > 0 && len(ours.sections[authority]) == 0 {
				theirs.dropServers(ours)
			}
		}},
		{"a type that there is not, with DO", func(q shape, ours, theirs *said) {
			if q.do && ours.rcode == dns.RcodeSuccess && theirs.rcode == dns.RcodeSuccess && len(ours.sections[answers])+len(theirs.sections[answers]) == 0 {
				mendDenial(q, ours, theirs)
			}
		}},
		{"a name that there is not, with DO", func(q shape, ours, theirs *said) {
			if !q.do || ours.rcode != dns.RcodeSuccess || theirs.rcode != dns.RcodeNameError {
				return
			}
			if mendDenial(q, ours, theirs) == "rrsig nsec nxname" || ours.tc && theirs.tc {
				ours.rcode = theirs.rcode
			}
		}},
		{"`ANY`", func(q shape, ours, theirs *said) {
			if q.qtype == dns.TypeANY && ours.isOneSet() && theirs.rcode == dns.RcodeSuccess {
				theirs.sections, theirs.tc = ours.sections, ours.tc
			}
		}},
		{"`RRSIG`, `NSEC`", func(q shape, ours, theirs *said) {
			if (q.qtype == dns.TypeRRSIG || q.qtype == dns.TypeNSEC) && theirs.rcode == dns.RcodeSuccess && len(ours.sections[answers]) <= 2 {
				theirs.sections, theirs.tc = ours.sections, ours.tc
			}
		}},
		{"`SVCB`, `HTTPS`", func(q shape, ours, theirs *said) {
			if q.qtype == dns.TypeSVCB || q.qtype == dns.TypeHTTPS {
				ours.drop(additional, of("A", "AAAA"))
				theirs.drop(additional, of("A", "AAAA", "HTTPS", "NSEC"))
			}
		}},
		{"`SRV` of one address twice", func(q shape, ours, theirs *said) {
			if q.qtype == dns.TypeSRV {
				theirs.sections[additional] = slices.Compact(theirs.sections[additional])
			}
		}},
		{"`SRV`, where not all addresses fit", func(q shape, ours, theirs *said) {
			if q.qtype == dns.TypeSRV && q.do && q.size == 512 && !q.tcp && ours.isSigned(additional) {
				ours.drop(additional, of("A", "AAAA"))
				theirs.drop(additional, of("A", "AAAA"))
			}
		}},
		{"more than 32 records, over UDP", func(q shape, ours, theirs *said) {
			if !q.tcp && strings.HasPrefix(q.name, "large.") && (len(ours.sections[answers]) > 1 || ours.tc) && ours.isPartOf(theirs) {
				theirs.sections, theirs.tc = ours.sections, ours.tc
			}
		}},
		{"what does not fit", func(_ shape, ours, theirs *said) {
			if ours.tc && theirs.tc && ours.rcode == theirs.rcode && len(ours.sections[answers])+len(ours.sections[authority]) == 0 {
				theirs.sections = ours.sections
			}
		}},
		{"class `ANY`", func(q shape, ours, theirs *said) {
			if q.class == dns.ClassANY && ours.rcode == dns.RcodeRefused && theirs.rcode == dns.RcodeSuccess {
				*theirs = *ours
			}
		}},
		{"other classes", func(q shape, ours, theirs *said) {
			if q.class != dns.ClassINET && ours.rcode == dns.RcodeRefused {
				ours.drop(additional, func(l string) bool { return l == fmt.Sprint("OPT option ", dns.EDNS0EDE) })
			}
		}},
		{"`AXFR`, over UDP", func(q shape, ours, theirs *said) {
			if q.qtype == dns.TypeAXFR && !q.tcp && ours.rcode == dns.RcodeNotAuth && theirs.rcode == dns.RcodeNotImplemented {
				*theirs = *ours
			}
		}},
		{"another version of EDNS, with DO", func(q shape, ours, theirs *said) {
			if q.version != 0 && q.do && ours.rcode == dns.RcodeBadVers && theirs.rcode == dns.RcodeBadVers {
				ours.sections[additional], theirs.sections[additional] = nil, nil
			}
		}},
		{"opcodes that we do not know", func(q shape, ours, theirs *said) {
			if q.opcode != dns.OpcodeQuery && ours.rcode == dns.RcodeNotImplemented {
				*theirs = *ours
			}
		}},
		{"types that are no data", func(q shape, ours, theirs *said) {
			malformed := q.qtype == 0 || q.qtype == dns.TypeOPT || q.qtype == dns.TypeNXNAME
			unknown := q.qtype == dns.TypeMAILA || q.qtype == dns.TypeMAILB || q.qtype == dns.TypeTKEY || q.qtype == dns.TypeTSIG
			if malformed && ours.rcode == dns.RcodeFormatError || unknown && ours.rcode == dns.RcodeNotImplemented {
				*theirs = *ours
			}
		}},
	}
}

// dropServers takes the zone's servers out of an answer, with their addresses where nobody else has them in.
func (s *said) dropServers(other *said) {
	var servers []string
	s.drop(authority, func(l string) bool {
		if of("NS")(l) {
			servers = append(servers, column(l, 4))
		}
		return of("NS")(l)
	})
	s.drop(additional, func(l string) bool {
		return of("A", "AAAA")(l) && slices.Contains(servers, column(l, 0)) && !slices.Contains(other.sections[additional], l)
	})
}

// mendDenial takes the proofs out of answers that deny something and returns what ours says that there is. Ours is one record, at the very
// name, and none between it and the next; theirs are of a chain, and do not fit always.
func mendDenial(q shape, ours, theirs *said) (types string) {
	name := strings.ToLower(q.name)
	proof := ours.drop(authority, func(l string) bool {
		if column(l, 3) == "nsec" && column(l, 0) == name && column(l, 4) == `\000.`+name {
			types = strings.Join(strings.Fields(l)[5:], " ")
		}
		return of("NSEC")(l)
	})
	theirs.drop(authority, of("NSEC"))
	if proof == 2 && theirs.tc && !q.tcp {
		theirs.sections, theirs.tc = ours.sections, ours.tc
	}
	return types
}

// isOneSet says whether the answer is one set, or that of RFC 8482.
func (s *said) isOneSet() bool {
	types := map[string]bool{}
	for _, l := range s.sections[answers] {
		what := column(l, 3)
		if what == "rrsig" {
			what = column(l, 4)
		}
		types[what] = true
	}
	return s.rcode == dns.RcodeSuccess && (len(types) == 1 || s.tc && len(types) == 0)
}

// isSigned says whether a section has a signature for each set in it, and no other.
func (s *said) isSigned(section int) bool {
	sets, signed := map[string]bool{}, map[string]bool{}
	for _, l := range s.sections[section] {
		if column(l, 3) == "rrsig" {
			signed[column(l, 0)+column(l, 4)] = true
		} else if column(l, 0) != "OPT" {
			sets[column(l, 0)+column(l, 3)] = true
		}
	}
	return maps.Equal(sets, signed)
}

// isPartOf says whether all that is answered is in the other answer, if that is whole, and is so much as may be.
func (s *said) isPartOf(other *said) bool {
	records := 0
	for _, l := range s.sections[answers] {
		if !other.tc && !slices.Contains(other.sections[answers], l) {
			return false
		}
		if column(l, 3) != "rrsig" {
			records++
		}
	}
	return records <= 32
}

// documented is a difference as docs/dns.md has it, with what is said of each program.
type documented struct {
	name string
	says map[string]string
}

// of says whether a program differs.
func (d documented) of(program string) bool { return d.says[program] != "the same" }

func documentedDifferences(t *testing.T) (all []documented) {
	t.Helper()
	doc, err := os.ReadFile("../docs/dns.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "| asked for | mesh control | NSD | Knot |\n|---|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 {
			t.Fatalf("a row of docs/dns.md: %q", line)
		}
		all = append(all, documented{strings.TrimSpace(cells[0]), map[string]string{"nsd": strings.TrimSpace(cells[2]), "knotd": strings.TrimSpace(cells[3])}})
	}
	if len(all) != len(differences()) {
		t.Errorf("docs/dns.md has %d differences, the test %d", len(all), len(differences()))
	}
	return all
}
