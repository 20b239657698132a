package proxy

import (
	"bytes"
	"testing"
)

// FuzzCookie: what is found is a part of the line, without the cookies beside it.
func FuzzCookie(f *testing.F) {
	for _, line := range []string{"sid=a", "a=b; sid=\"c\"; sid=d", "sid", "sid=;x", " sid= a", ";;=;sid==", "sid=\""} {
		f.Add([]byte(line), "sid")
	}
	f.Fuzz(func(t *testing.T, line []byte, name string) {
		value, ok := cookieIn(line, name)
		if ok && (bytes.IndexByte(value, ';') >= 0 || !bytes.Contains(line, []byte(name+"=")) || !bytes.Contains(line, value)) {
			t.Errorf("%q: found %q", line, value)
		}
		if !ok && bytes.HasPrefix(line, []byte(name+"=")) && len(name) > 0 && !bytes.ContainsAny([]byte(name), "=; \t") {
			t.Errorf("%q: %q was not found", line, name)
		}
	})
}

// FuzzForwardedFor: what is taken for an address is one, and stands where it must.
func FuzzForwardedFor(f *testing.F) {
	for _, list := range []string{"10.0.0.1", "a, 10.0.0.1 ,::1", ",", "fe80::1%eth0", "1.2.3.4:80", "", "::ffff:1.2.3.4"} {
		f.Add([]byte(list), 0)
		f.Add([]byte(list), 1)
	}
	f.Fuzz(func(t *testing.T, list []byte, hops int) {
		addr, ok := forwardedFor(list, hops)
		if ok && (!addr.IsValid() || addr.Zone() != "" || hops > bytes.Count(list, []byte(","))) {
			t.Errorf("%q, %d hops: %v", list, hops, addr)
		}
		if parts := bytes.Split(list, []byte(",")); ok && hops >= 0 {
			part := parts[len(parts)-1-hops]
			if again, _ := forwardedFor(part, 0); again != addr {
				t.Errorf("%q, %d hops: %v, but %q stands there", list, hops, addr, part)
			}
		}
	})
}
