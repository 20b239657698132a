package resolve

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	lookAgain    = time.Second // what the files said is taken for so long without a look at them
	maxFileBytes = 4 << 20
	maxServers   = 8
)

// system is what resolv.conf and the hosts file say, read again when they change.
type system struct {
	resolvConf, hosts file

	mu     sync.Mutex
	looked time.Time
	known  *settings
}

type file struct {
	path string
	seen os.FileInfo // nil: it was not there
}

// settings are never changed once made.
type settings struct {
	nameservers []netip.AddrPort
	client      *dns.ClientConfig // nil without a resolv.conf
	hosts       map[string][]netip.Addr
}

func newSystem(resolvConf, hosts string) *system {
	return &system{resolvConf: file{path: resolvConf}, hosts: file{path: hosts}, known: &settings{}}
}

// now returns the present settings. A file that cannot be read, or that names no server (as while it is rewritten),
// leaves them as they were.
func (s *system) now() *settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.looked.IsZero() && time.Since(s.looked) < lookAgain {
		return s.known
	}
	s.looked = time.Now()
	next := *s.known
	if data, ok := s.resolvConf.changed(); ok {
		if c, err := dns.ClientConfigFromReader(bytes.NewReader(data)); err == nil {
			if servers := nameservers(c.Servers); len(servers) > 0 {
				next.client, next.nameservers = c, servers
			}
		}
	}
	if data, ok := s.hosts.changed(); ok {
		next.hosts = parseHosts(data)
	}
	s.known = &next
	return s.known
}

// changed returns a file's text if it is another than when last looked at.
func (f *file) changed() ([]byte, bool) {
	info, err := os.Stat(f.path)
	if err != nil || f.seen != nil && os.SameFile(info, f.seen) && info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
		return nil, false
	}
	data, err := readAtMost(f.path, maxFileBytes)
	if err != nil {
		return nil, false
	}
	f.seen = info
	return data, true
}

func readAtMost(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		return nil, errors.New("read " + path + ": the file is too large")
	}
	return data, err
}

func nameservers(texts []string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil && len(out) < maxServers {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
	}
	return out
}

// parseHosts reads a hosts file: an address and the names that it has, a line each.
func parseHosts(data []byte) map[string][]netip.Addr {
	hosts := map[string][]netip.Addr{}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(text)
		if len(words) < 2 {
			continue
		}
		a, err := netip.ParseAddr(words[0])
		if a = a.Unmap(); err != nil || a.Zone() != "" || a.IsUnspecified() {
			continue
		}
		for _, word := range words[1:] {
			name := strings.ToLower(strings.TrimSuffix(word, "."))
			hosts[name] = append(hosts[name], a)
		}
	}
	return hosts
}

// servers are those to ask. Where nothing names one it is this host, as the resolvers of C libraries have it.
func (s *settings) servers(l *config.DNSLookup) []netip.AddrPort {
	switch {
	case len(l.Servers) > 0 && (!l.Fallback || len(s.nameservers) == 0):
		return l.Servers
	case len(s.nameservers) > 0:
		return s.nameservers
	}
	return []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
}

// search lists the full names that a name may mean, in the order in which they are tried.
func (s *settings) search(host string) []string {
	if s.client == nil {
		return []string{dns.Fqdn(host)}
	}
	return s.client.NameList(host)
}
