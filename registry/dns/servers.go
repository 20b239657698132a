package dns

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// servers are the resolvers to ask, in the order in which they are to be asked.
type servers struct {
	path string // a resolv.conf; "" when they are configured

	mu     sync.Mutex
	list   []server
	looked time.Time // when the file was looked at
	file   os.FileInfo
}

// lookAgain is how long what resolv.conf said is taken without a look at the file.
const lookAgain = time.Second

// newServers returns the resolvers of cfg. Without any there is nobody to ask, which is an error.
func newServers(cfg Config) (*servers, error) {
	if len(cfg.Resolvers) == 0 {
		s := &servers{path: cfg.ResolvConf}
		return s, s.read()
	}
	s := &servers{}
	for _, text := range cfg.Resolvers {
		one, err := parseServer(text)
		if err != nil {
			return nil, fmt.Errorf("resolver %q: want %w", text, err)
		}
		s.list = append(s.list, one)
	}
	return s, nil
}

// now returns the resolvers as they are known now; the list is not to be changed. A file that cannot be read, or that
// names none (as while it is rewritten), leaves them as they were.
func (s *servers) now() []server {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" || time.Since(s.looked) < lookAgain {
		return s.list
	}
	s.looked = time.Now()
	if info, err := os.Stat(s.path); err == nil && (!os.SameFile(info, s.file) || info.ModTime() != s.file.ModTime() || info.Size() != s.file.Size()) {
		_ = s.read() // what was known stays
	}
	return s.list
}

func (s *servers) read() error {
	info, err := os.Stat(s.path)
	if err != nil {
		return fmt.Errorf("find resolvers: %w; name some in resolvers", err)
	}
	config, err := dns.ClientConfigFromFile(s.path)
	if err != nil {
		return fmt.Errorf("find resolvers: %w", err)
	}
	var list []server
	for _, text := range config.Servers {
		if one, err := parseServer(text); err == nil {
			list = append(list, one)
		}
	}
	if len(list) == 0 {
		return fmt.Errorf("find resolvers: %s has no nameserver line; name some in resolvers", s.path)
	}
	s.list, s.file, s.looked = list, info, time.Now()
	return nil
}
