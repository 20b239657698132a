package gossip

import (
	"encoding/base64"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConfigCheck(t *testing.T) {
	var got []string
	report := func(path, g, want string) { got = append(got, path+": got "+g+", want "+want) }
	Config{Join: []string{"a b", "x:0", "ok", "10.0.0.1", "[::1]:7", "::1"}, Advertise: netip.MustParseAddrPort("0.0.0.0:1")}.Check(report)
	Config{Bind: netip.MustParseAddrPort("10.0.0.1:1")}.Check(report)
	Config{Bind: netip.MustParseAddrPort("10.0.0.1:1"), KeyFile: "key"}.Check(report)
	Config{Bind: netip.MustParseAddrPort("127.0.0.1:1")}.Check(report)
	want := []string{
		"bind: got nothing, want an address and port, such as 10.0.0.1:7946",
		"advertise: got 0.0.0.0:1, want an address that others can dial",
		`join[0]: got "a b", want host or host:port`,
		`join[1]: got "x:0", want host or host:port`,
		"keyFile: got nothing, want a file with a key, because bind 10.0.0.1:1 is not loopback",
		`keyFile: got "key", want an absolute path`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestKeyFile(t *testing.T) {
	secret := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		want       string
	}{
		{"good", secret, 0o640, ""},
		{"readable by all", secret, 0o644, "want a file that others cannot read"},
		{"writable by the group", secret, 0o660, "want a file that others cannot read or write"},
		{"short", secret[:20], 0o600, "line 1: a key of 15 bytes, want 32"},
		{"not base64", "\n!" + secret, 0o600, "line 2: not base64"},
		{"empty", "# none\n", 0o600, "no key in it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := loadKeys(path)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), secret[:8]) {
				t.Errorf("the error prints the key: %v", err)
			}
		})
	}
}
