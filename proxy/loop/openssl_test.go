package loop_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/loop"
)

// openssl runs a command of OpenSSL. What it prints comes line by line.
func openssl(t *testing.T, args ...string) (in io.Writer, lines <-chan string) {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := make(chan string, 1000)
	go func() {
		defer close(out)
		for s := bufio.NewScanner(r); s.Scan(); {
			out <- s.Text()
		}
	}()
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		w.Close()
	})
	return stdin, out
}

// expect waits for a line that holds a text.
func expect(t *testing.T, lines <-chan string, text string) string {
	t.Helper()
	var seen []string
	for line := range lines {
		if seen = append(seen, line); strings.Contains(line, text) {
			return line
		}
	}
	t.Fatalf("OpenSSL ended without %q:\n%s", text, strings.Join(seen, "\n"))
	return ""
}

func needOpenSSL(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is not installed; run make setup")
	}
}

// TestOpenSSLClient: OpenSSL's client is answered before and after it has changed its keys and asked for others.
func TestOpenSSLClient(t *testing.T) {
	needOpenSSL(t)
	server, _ := configs(t)
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		t.Run(version, func(t *testing.T) {
			l := run(t)
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer lis.Close()
			in, lines := openssl(t, "s_client", version, "-connect", lis.Addr().String(), "-servername", "web.mesh.internal")
			conn, err := lis.Accept()
			if err != nil {
				t.Fatal(err)
			}
			m := newMirror(t, l, descriptor(t, conn), server, true, true)
			for _, step := range []struct{ say, want string }{
				{"first", "first"},
				{"k", "KEYUPDATE"},
				{"second", "second"},
				{"K", "KEYUPDATE"},
				{"third", "third"},
			} {
				if version == "-tls1_2" && step.want == "KEYUPDATE" {
					continue
				}
				_, _ = io.WriteString(in, step.say+"\n")
				expect(t, lines, step.want)
			}
			if len(m.end) > 0 {
				t.Error(<-m.end)
			}
		})
	}
}

// TestOpenSSLServer: a client on the loop talks with OpenSSL's server, which sends lines back reversed.
func TestOpenSSLServer(t *testing.T) {
	needOpenSSL(t)
	server, client := configs(t)
	key, err := x509.MarshalECPrivateKey(server.Certificates[0].PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "web.pem")
	both := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificates[0].Certificate[0]})
	both = append(both, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(file, both, 0o600); err != nil {
		t.Fatal(err)
	}
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	_, lines := openssl(t, "s_server", "-accept", "127.0.0.1:0", "-cert", file, "-key", file, "-rev", "-alpn", "h2")
	_, addr, _ := strings.Cut(expect(t, lines, "ACCEPT "), "ACCEPT ")
	l := run(t)
	for i, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13, tls.VersionTLS13} {
		cfg := client.Clone()
		cfg.MinVersion, cfg.MaxVersion = version, version
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c := secure(t, l, descriptor(t, conn), cfg, false)
		if err := wait(t, "handshake", c.ended); err != nil {
			t.Fatal(err)
		}
		var got string
		do(t, l, func() {
			if err := c.write("hello\n"); err != nil {
				t.Error(err)
			}
		})
		for got == "" {
			<-c.events
			do(t, l, func() {
				n, _ := c.Read(l.Shared())
				got = string(l.Shared()[:n])
			})
		}
		do(t, l, func() {
			if st := c.TLS(); got != "olleh\n" || st.ALPN != "h2" || st.Version != version || st.Resumed != (i == 2) {
				t.Errorf("%q over %+v", got, st)
			}
		})
		c.close(t)
	}
}

var _ loop.Secured = (*secured)(nil)
