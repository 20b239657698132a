package tlsfile_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/internal/tlsfile"
)

// What the files are good for is shown by the adapters against their servers; here is what they are refused for.
func TestWhatIsNoFileIsTold(t *testing.T) {
	junk := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files tlsfile.Files
		want  string
	}{
		"absent authority": {tlsfile.Files{CA: junk + ".absent"}, "read CA file: open"},
		"no authority":     {tlsfile.Files{CA: junk}, "no certificate in it"},
	} {
		if _, err := c.files.Config(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	config, err := tlsfile.Files{Cert: junk, Key: junk, Server: "x"}.Config()
	if err != nil || config.InsecureSkipVerify || config.MinVersion < tls.VersionTLS12 || config.ServerName != "x" {
		t.Fatalf("%+v, %v", config, err)
	}
	if _, err := config.GetClientCertificate(nil); err == nil || !strings.Contains(err.Error(), "read client certificate") {
		t.Errorf("a client certificate that is none: %v", err)
	}
}
