package gossip

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/hashicorp/memberlist"
)

// keyBytes is the length of a key: AES-256.
const keyBytes = 32

// maxKeyFile bounds what is read of a key file.
const maxKeyFile = 64 << 10

// Config is the part of a configuration file that says how this node takes part in the ring.
type Config struct {
	// Bind is where to listen, UDP and TCP; a host's default is 127.0.0.1:7946. Port 0 takes a free one.
	Bind netip.AddrPort `yaml:"bind"`
	// Advertise is what the others are told; unset means Bind or, when that is a wildcard, the address from which the
	// first seed is reached. Port 0 means the bound one.
	Advertise netip.AddrPort `yaml:"advertise"`
	// Join holds seeds, "host" or "host:port"; without a port the one of Bind is meant. They are tried for ever.
	Join []string `yaml:"join"`
	// KeyFile holds AES-256 keys in base64, one a line; the first encrypts, all of them decrypt. Blank lines and lines
	// that start with # are left out. Without it gossip is plaintext and must stay on loopback.
	KeyFile string `yaml:"keyFile"`
}

// SetDefaults puts in a host's defaults for what is not set.
func (c *Config) SetDefaults() {
	if !c.Bind.IsValid() {
		c.Bind = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 7946)
	}
}

// Check reports every mistake in c, with the path of the field within the block.
func (c Config) Check(report func(path, got, want string)) {
	if !c.Bind.IsValid() {
		report("bind", "nothing", "an address and port, such as 10.0.0.1:7946")
	} else if !c.Bind.Addr().IsLoopback() && c.KeyFile == "" {
		report("keyFile", "nothing", fmt.Sprintf("a file with a key, because bind %s is not loopback", c.Bind))
	}
	if a := c.Advertise.Addr(); a.IsValid() && (a.IsUnspecified() || a.IsMulticast()) {
		report("advertise", c.Advertise.String(), "an address that others can dial")
	}
	for i, seed := range c.Join {
		if _, _, err := splitSeed(seed, max(c.Bind.Port(), 1)); err != nil {
			report(fmt.Sprintf("join[%d]", i), strconv.Quote(seed), "host or host:port")
		}
	}
	if c.KeyFile != "" && !strings.HasPrefix(c.KeyFile, "/") {
		report("keyFile", strconv.Quote(c.KeyFile), "an absolute path")
	}
}

// splitSeed returns host and port of a seed.
func splitSeed(seed string, defaultPort uint16) (string, uint16, error) {
	if addr, err := netip.ParseAddr(strings.Trim(seed, "[]")); err == nil {
		return addr.String(), defaultPort, nil
	}
	if !strings.Contains(seed, ":") {
		seed = net.JoinHostPort(seed, strconv.Itoa(int(defaultPort)))
	}
	host, port, err := net.SplitHostPort(seed)
	if err != nil {
		return "", 0, fmt.Errorf("parse seed %q: %w", seed, err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 || host == "" || strings.ContainsAny(host, " /@") {
		return "", 0, fmt.Errorf("parse seed %q: want host:port", seed)
	}
	return host, uint16(number), nil
}

// loadKeys reads the keys of the file at path. No error of it holds any of the file's content.
func loadKeys(path string) ([][]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open gossip keys: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read gossip keys: %w", err)
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o027 != 0 {
		return nil, fmt.Errorf("read gossip keys %s: mode %v, want a file that others cannot read or write (0600 or 0640)", path, mode)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("read gossip keys %s: %w", path, err)
	}
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("read gossip keys %s: more than %d bytes", path, maxKeyFile)
	}
	keys, err := parseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("read gossip keys %s: %w", path, err)
	}
	return keys, nil
}

func parseKeys(data []byte) ([][]byte, error) {
	var keys [][]byte
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: not base64", n) // the cause would quote a byte of the key
		}
		if len(key) != keyBytes {
			return nil, fmt.Errorf("line %d: a key of %d bytes, want %d", n, len(key), keyBytes)
		}
		keys = append(keys, key)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("a line is too long")
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no key in it, want one in base64 (openssl rand -base64 32)")
	}
	return keys, nil
}

// keyring returns the keys of c for memberlist, nil without a key file.
func (c Config) keyring() (*memberlist.Keyring, error) {
	if c.KeyFile == "" {
		return nil, nil
	}
	keys, err := loadKeys(c.KeyFile)
	if err != nil {
		return nil, err
	}
	ring, err := memberlist.NewKeyring(keys, keys[0])
	if err != nil {
		return nil, fmt.Errorf("use gossip keys %s: %w", c.KeyFile, err)
	}
	return ring, nil
}
