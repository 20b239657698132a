package http1

import (
	"errors"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/http1/http1test"
	"github.com/hostmesh/hostmesh/proxy/message"
)

// judge reads a whole message as a proxy does: head, then body. It returns the error, or what is left over and whether the
// message was complete.
func judge(in string, l Limits) (rest string, complete bool, err error) {
	r := new(Request)
	n, err := r.Parse([]byte(in), new(message.Head), l)
	if err != nil || n == 0 {
		return in, false, err
	}
	in = in[n:]
	b := NewBody(r.Framing())
	for {
		n, _, err := b.Next([]byte(in), nil)
		if err != nil {
			return in, false, err
		}
		if n == 0 {
			return in, b.Done(), nil
		}
		in = in[n:]
	}
}

func TestConformance(t *testing.T) {
	for _, p := range http1test.Requests() {
		t.Run(p.Name, func(t *testing.T) {
			rest, complete, err := judge(p.In, Limits{})
			reason := ""
			if e := Error(0); errors.As(err, &e) {
				reason = e.Reason()
			}
			if reason != p.Refused {
				t.Fatalf("%q: refused as %q, want %q", p.In, reason, p.Refused)
			}
			if err == nil && (!complete || rest != "") {
				t.Fatalf("complete %v, left over %q", complete, rest)
			}
		})
	}
}

func TestConformanceHasManyProbes(t *testing.T) {
	seen, refused := map[string]bool{}, 0
	for _, p := range http1test.Requests() {
		if seen[p.In] {
			t.Errorf("twice: %q", p.In)
		}
		seen[p.In] = true
		if p.Refused != "" {
			refused++
		}
	}
	if len(seen) < 200 || refused < 139 {
		t.Errorf("%d probes, %d to refuse", len(seen), refused)
	}
}

// get is a request with these lines after its request line and Host.
func get(lines ...string) string {
	return crlf(append([]string{"GET / HTTP/1.1", "Host: a"}, lines...)...)
}

// line is a request with this request line.
func line(s string) string { return crlf(s, "Host: a") }

func TestConformanceLimits(t *testing.T) {
	tests := []struct {
		name, in string
		l        Limits
		want     error
	}{
		{"default count", get(strings.Split(strings.Repeat("a: b|", 98)+"a: b", "|")...), Limits{}, nil},
		{"over the default count", get(strings.Split(strings.Repeat("a: b|", 99)+"a: b", "|")...), Limits{}, ErrTooManyFields},
		{"10,000 fields", get(strings.Split(strings.Repeat("a:|", 9999)+"a:", "|")...), Limits{}, ErrTooManyFields},
		{"own count", get("b: c"), Limits{Fields: 1}, ErrTooManyFields},
		{"long target", line("GET /" + strings.Repeat("a", 61<<10) + " HTTP/1.1"), Limits{}, ErrTargetTooLong},
		{"long method without end", strings.Repeat("A", 61<<10), Limits{}, ErrTargetTooLong},
		{"long name", get(strings.Repeat("a", 61<<10) + ": b"), Limits{}, ErrHeadTooLarge},
		{"long value", get("a: " + strings.Repeat("b", 61<<10)), Limits{}, ErrHeadTooLarge},
		{"value without end", "GET / HTTP/1.1\r\na: " + strings.Repeat("b", 61<<10), Limits{}, ErrHeadTooLarge},
		{"head as long as allowed", get(), Limits{HeadBytes: len(get())}, nil},
		{"head one byte too long", get(), Limits{HeadBytes: len(get()) - 1}, ErrHeadTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, complete, err := judge(tt.in, tt.l)
			if !errors.Is(err, tt.want) || err == nil && !complete {
				t.Errorf("complete %v, error %v; want %v", complete, err, tt.want)
			}
		})
	}
}

func TestErrorsAnswer(t *testing.T) {
	seen := map[string]Error{}
	for e := ErrBareLF; e <= ErrTruncated; e++ {
		if s := e.Status(); s < 400 || s > 505 {
			t.Errorf("%d: status %d", e, s)
		}
		if other, ok := seen[e.Reason()]; ok || strings.ContainsAny(e.Reason(), " \"") || e.Error() == "" {
			t.Errorf("%d: reason %q, text %q, like %d", e, e.Reason(), e.Error(), other)
		}
		seen[e.Reason()] = e
	}
}
