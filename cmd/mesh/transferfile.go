package main

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/dnsserver/transfer"
	"github.com/hostmesh/hostmesh/dnsserver/tsig"
)

// keySection is a key of TSIG. The secret is in a file of its own, so that who reads control.yaml does not have it.
type keySection struct {
	Name       string `yaml:"name,required"`
	Algorithm  string `yaml:"algorithm"`
	SecretFile string `yaml:"secretFile,required"`
}

// SetDefaults implements the hook of internal/yamlpos.
func (k *keySection) SetDefaults() { k.Algorithm = "hmac-sha256" }

// secondarySection is a server that copies the zones.
type secondarySection struct {
	Address string `yaml:"address,required"`
	Key     string `yaml:"key"`
}

// addr is where a secondary is, on port 53 if no other is said.
func (s secondarySection) addr() (netip.AddrPort, bool) {
	if addr, err := netip.ParseAddr(s.Address); err == nil {
		return netip.AddrPortFrom(addr, 53), !addr.IsUnspecified()
	}
	addr, err := netip.ParseAddrPort(s.Address)
	return addr, err == nil && addr.Port() != 0 && !addr.Addr().IsUnspecified()
}

func (d *dnsSection) checkTransfers(report func(path, got, want string)) {
	var names []string
	for i, k := range d.Keys {
		path := fmt.Sprintf("keys[%d]", i)
		if slices.Contains(names, canonicalKey(k.Name)) {
			report(path+".name", fmt.Sprintf("%q", k.Name), "each name once")
		}
		names = append(names, canonicalKey(k.Name))
		if _, err := tsig.NewKey(k.Name, "hmac-sha256", make([]byte, 32)); err != nil {
			report(path+".name", fmt.Sprintf("%q", k.Name), "a domain name, such as transfer.example.org; the secondary has the same")
		}
		if k.Algorithm != "hmac-sha256" && k.Algorithm != "hmac-sha512" {
			report(path+".algorithm", fmt.Sprintf("%q", k.Algorithm), "hmac-sha256 or hmac-sha512")
		}
		if !filepath.IsAbs(k.SecretFile) {
			report(path+".secretFile", fmt.Sprintf("%q", k.SecretFile), "an absolute path")
		}
	}
	seen := map[netip.AddrPort]int{}
	for i, s := range d.Secondaries {
		path := fmt.Sprintf("secondaries[%d]", i)
		addr, ok := s.addr()
		switch first, dup := seen[addr]; {
		case !ok:
			report(path+".address", fmt.Sprintf("%q", s.Address), "IP or IP:port of a DNS server")
		case dup:
			report(path+".address", s.Address, fmt.Sprintf("each server once; secondaries[%d] is that one", first))
		case s.Key == "" && !addr.Addr().IsLoopback():
			report(path+".key", "none", "the name of a key under dns.keys: without one, zones are copied to this host alone")
		case s.Key != "" && !slices.Contains(names, canonicalKey(s.Key)):
			report(path+".key", fmt.Sprintf("%q", s.Key), "the name of a key under dns.keys")
		}
		seen[addr] = i
	}
}

func canonicalKey(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// transfers reads the keys.
func (d *dnsSection) transfers(o *controlplane.DNS) error {
	keys := map[string]*tsig.Key{}
	for _, k := range d.Keys {
		secret, err := readSecret(k.SecretFile)
		if err != nil {
			return fmt.Errorf("read the secret of dns key %s: %w", k.Name, err)
		}
		key, err := tsig.NewKey(k.Name, k.Algorithm, secret)
		if err != nil {
			return fmt.Errorf("%w (from %s; openssl rand -base64 32 makes one)", err, k.SecretFile)
		}
		keys[canonicalKey(k.Name)] = key
		o.TransferKeys = append(o.TransferKeys, key)
	}
	for _, s := range d.Secondaries {
		addr, _ := s.addr()
		o.Secondaries = append(o.Secondaries, transfer.Secondary{Addr: addr, Key: keys[canonicalKey(s.Key)]})
	}
	return nil
}

// readSecret reads a file of base64 that nobody but its owner may read.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %v, want a file that its owner alone may read (chmod 600)", path, mode)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("%s holds no base64, want one line of it (openssl rand -base64 32 makes one)", path) // its text is not repeated
	}
	return secret, nil
}
