package tsig_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver/tsig"
)

const secret = "0123456789abcdef0123456789abcdef"

func newKey(t testing.TB, name, algorithm, secret string) *tsig.Key {
	t.Helper()
	k, err := tsig.NewKey(name, algorithm, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// signed is a query that the message library has signed.
func signed(t testing.TB, name, algorithm, secret string, at time.Time) (query []byte, mac string) {
	t.Helper()
	m := new(dns.Msg).SetQuestion("mesh.internal.", dns.TypeSOA).SetEdns0(1232, false)
	m.SetTsig(name, algorithm, 300, at.Unix())
	query, mac, err := dns.TsigGenerate(m, base64.StdEncoding.EncodeToString([]byte(secret)), "", false)
	if err != nil {
		t.Fatal(err)
	}
	return query, mac
}

func TestVerify(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	keys := []*tsig.Key{newKey(t, "Transfer.Example", "hmac-sha256", secret), newKey(t, "long.example.", "hmac-sha512.", secret)}
	for _, c := range []struct {
		name, key, algorithm, secret string
		at                           time.Time
		want                         uint16
	}{
		{"SHA-256", "transfer.example.", dns.HmacSHA256, secret, now, 0},
		{"SHA-512", "long.example.", dns.HmacSHA512, secret, now, 0},
		{"name in other case", "TRANSFER.example.", dns.HmacSHA256, secret, now, 0},
		{"clock behind within bounds", "transfer.example.", dns.HmacSHA256, secret, now.Add(-299 * time.Second), 0},
		{"clock behind", "transfer.example.", dns.HmacSHA256, secret, now.Add(-301 * time.Second), dns.RcodeBadTime},
		{"clock ahead", "transfer.example.", dns.HmacSHA256, secret, now.Add(301 * time.Second), dns.RcodeBadTime},
		{"another secret", "transfer.example.", dns.HmacSHA256, secret + "x", now, dns.RcodeBadSig},
		{"another name", "transfers.example.", dns.HmacSHA256, secret, now, dns.RcodeBadKey},
		{"another algorithm", "transfer.example.", dns.HmacSHA512, secret, now, dns.RcodeBadKey},
	} {
		t.Run(c.name, func(t *testing.T) {
			query, mac := signed(t, c.key, c.algorithm, c.secret, c.at)
			s, err := tsig.Verify(keys, query, now)
			if err != nil || s == nil || s.Failed() != c.want || (s.Key() != nil) != (c.want == 0) {
				t.Fatalf("%+v, %v, want error %d", s, err, c.want)
			}
			answer, err := new(dns.Msg).SetRcode(new(dns.Msg).SetQuestion("mesh.internal.", dns.TypeSOA), dns.RcodeSuccess).Pack()
			if err != nil {
				t.Fatal(err)
			}
			size := len(answer)
			for i := range 3 { // the answer, and what follows it in a transfer
				last := s.Append(answer[:size:size], now)
				if len(last)-size > s.Size() {
					t.Errorf("%d bytes were appended, Size says %d", len(last)-size, s.Size())
				}
				var m dns.Msg
				if err := m.Unpack(last); err != nil || m.IsTsig() == nil || m.IsTsig().Error != c.want {
					t.Fatalf("%v, %v, want error %d", &m, err, c.want)
				}
				if c.want == dns.RcodeBadKey || c.want == dns.RcodeBadSig {
					if len(m.IsTsig().MAC) != 0 {
						t.Error("an answer to nobody known is signed")
					}
					return
				}
				if c.want == dns.RcodeBadTime {
					if m.IsTsig().OtherLen != 6 || m.IsTsig().TimeSigned != uint64(c.at.Unix()) {
						t.Errorf("%v, want the server's time", m.IsTsig())
					}
					return
				}
				if err := believed(last, c.secret, mac, i > 0); err != nil {
					t.Errorf("message %d: %v", i, err)
				}
				mac = m.IsTsig().MAC
			}
		})
	}
}

// believed has the message library verify a message. It does so by the wall's clock: that this is another is the only error that
// does not count.
func believed(message []byte, secret, mac string, timers bool) error {
	err := dns.TsigVerify(bytes.Clone(message), base64.StdEncoding.EncodeToString([]byte(secret)), mac, timers)
	if errors.Is(err, dns.ErrTime) {
		return nil
	}
	return err
}

func TestSign(t *testing.T) {
	now := time.Now()
	key := newKey(t, "transfer.example.", "hmac-sha512", secret)
	query, err := new(dns.Msg).SetNotify("mesh.internal.").Pack()
	if err != nil {
		t.Fatal(err)
	}
	query, s := tsig.Sign(key, query, now)
	var m dns.Msg
	if err := errors.Join(m.Unpack(query), dns.TsigVerify(bytes.Clone(query), base64.StdEncoding.EncodeToString([]byte(secret)), "", false)); err != nil {
		t.Fatal(err)
	}
	other, err := tsig.Verify([]*tsig.Key{key}, query, now)
	if err != nil || other.Key() != key {
		t.Fatalf("%v, %v", other, err)
	}
	answer, err := new(dns.Msg).SetReply(&m).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.VerifyAnswer(answer, now); err == nil || !strings.Contains(err.Error(), "no TSIG record") {
		t.Errorf("an answer that is not signed: %v", err)
	}
	answer = other.Append(answer, now)
	twice := *s
	if err := twice.VerifyAnswer(answer, now); err != nil {
		t.Error(err)
	}
	answer[3] |= dns.RcodeRefused
	if err := s.VerifyAnswer(answer, now); err == nil {
		t.Error("an answer that was changed is believed")
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	key := newKey(t, "transfer.example.", "hmac-sha256", secret)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if got := fmt.Sprintf(format, key); strings.Contains(got, secret) || !strings.Contains(got, "transfer.example.") {
			t.Errorf("%s prints %s", format, got)
		}
	}
	for _, c := range []struct{ name, algorithm, secret, want string }{
		{"transfer.example.", "hmac-md5", secret, "hmac-sha256 or hmac-sha512"},
		{"transfer.example.", "hmac-sha256", "hunter2", "7 bytes"},
		{"", "hmac-sha256", secret, "domain name"},
	} {
		if _, err := tsig.NewKey(c.name, c.algorithm, []byte(c.secret)); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), c.secret) {
			t.Errorf("%v, want %q and no secret", err, c.want)
		}
	}
}

// FuzzVerify shows that no message is taken for authentic that the message library does not take for it.
func FuzzVerify(f *testing.F) {
	now := time.Now()
	key := newKey(f, "transfer.example.", "hmac-sha256", secret)
	query, _ := signed(f, "transfer.example.", dns.HmacSHA256, secret, now)
	f.Add(query)
	f.Add(query[:len(query)-1])
	f.Add(append([]byte(nil), query[:12]...))
	f.Fuzz(func(t *testing.T, message []byte) {
		s, err := tsig.Verify([]*tsig.Key{key}, message, now)
		if err != nil || s == nil {
			return
		}
		if s.Key() != nil {
			if err := dns.TsigVerify(bytes.Clone(message), base64.StdEncoding.EncodeToString([]byte(secret)), "", false); err != nil && !errors.Is(err, dns.ErrTime) {
				t.Errorf("the message library says %v of %x", err, message)
			}
		}
		s.Append(make([]byte, 12, 512), now)
	})
}
