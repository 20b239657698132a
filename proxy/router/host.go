package router

import (
	"slices"
	"strings"
)

// wildcards holds the fixed parts of wildcard domains. There are few different lengths, so one look-up for each.
type wildcards struct {
	lengths []int // longest first
	hosts   map[string]int32
}

func (w *wildcards) add(part string, host int32) {
	if w.hosts == nil {
		w.hosts = make(map[string]int32)
	}
	if _, taken := w.hosts[part]; taken {
		return
	}
	w.hosts[part] = host
	if !slices.Contains(w.lengths, len(part)) {
		w.lengths = append(w.lengths, len(part))
	}
}

func (w *wildcards) sort() {
	slices.SortFunc(w.lengths, func(a, b int) int { return b - a })
}

func (t *Table) addDomain(domain string, host int32) {
	domain = strings.ToLower(domain)
	switch {
	case domain == "*":
		if t.any < 0 {
			t.any = host
		}
	case strings.HasPrefix(domain, "*"):
		t.suffixes.add(domain[1:], host)
	case strings.HasSuffix(domain, "*"):
		t.prefixes.add(domain[:len(domain)-1], host)
	default:
		if _, taken := t.exact[domain]; !taken {
			t.exact[domain] = host
		}
	}
}

// host returns the index of the virtual host for r.Host: exact, longest suffix, longest prefix, any; -1 without. A wildcard
// stands for at least one byte.
func (t *Table) host(r *Request) int32 {
	r.lowered = lower(r.lowered[:0], r.Host)
	h := r.lowered
	if i, ok := t.exact[string(h)]; ok {
		return i
	}
	for _, n := range t.suffixes.lengths {
		if n < len(h) {
			if i, ok := t.suffixes.hosts[string(h[len(h)-n:])]; ok {
				return i
			}
		}
	}
	for _, n := range t.prefixes.lengths {
		if n < len(h) {
			if i, ok := t.prefixes.hosts[string(h[:n])]; ok {
				return i
			}
		}
	}
	return t.any
}

// lower appends s in lower case (ASCII) to dst.
func lower(dst, s []byte) []byte {
	for _, c := range s {
		dst = append(dst, lowerByte(c))
	}
	return dst
}

func lowerByte(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// equalFold compares b with want, which is lower case.
func equalFold(b []byte, want string) bool {
	if len(b) != len(want) {
		return false
	}
	for i, c := range b {
		if lowerByte(c) != want[i] {
			return false
		}
	}
	return true
}
