package router

import "github.com/hostmesh/hostmesh/proxy/config"

func matchHeaders(matches []config.HeaderMatch, r *Request, path []byte) bool {
	for i := range matches {
		if !matchHeader(&matches[i], r, path) {
			return false
		}
	}
	return true
}

// AnyHeader reports whether a request, whose path to forward is path, has a header that one of matches matches.
func AnyHeader(matches []config.HeaderMatch, r *Request, path []byte) bool {
	for i := range matches {
		if matchHeader(&matches[i], r, path) {
			return true
		}
	}
	return false
}

// AnyField is AnyHeader for the fields of a response.
func AnyField(matches []config.HeaderMatch, h Headers) bool {
	r := Request{Headers: h}
	return AnyHeader(matches, &r, nil)
}

// matchHeader compares all lines of a field, joined by commas, as one value: a second line cannot hide behind the first. As in
// Envoy a field that is missing has no value, so that only an inverted test for presence matches.
func matchHeader(m *config.HeaderMatch, r *Request, path []byte) bool {
	switch m.Name {
	case ":method":
		return (m.Present || string(r.Method) == m.Exact) != m.Invert
	case ":authority", "host":
		if len(r.Host) == 0 {
			return m.Present && m.Invert
		}
		return (m.Present || string(r.Host) == m.Exact) != m.Invert
	case ":path":
		if len(path) == 0 { // CONNECT has none
			return m.Present && m.Invert
		}
		return (m.Present || equalPath(m.Exact, path, r)) != m.Invert
	}
	if r.Headers == nil {
		return m.Present && m.Invert
	}
	value, next := r.Headers.Next(m.Name, 0)
	if next < 0 {
		return m.Present && m.Invert
	}
	return (m.Present || equalJoined(m, value, next, r.Headers)) != m.Invert
}

func equalPath(want string, path []byte, r *Request) bool {
	if !r.HasQuery {
		return string(path) == want
	}
	n := len(path)
	return len(want) == n+1+len(r.Query) && want[:n] == string(path) && want[n] == '?' && want[n+1:] == string(r.Query)
}

func equalJoined(m *config.HeaderMatch, value []byte, next int, h Headers) bool {
	rest := m.Exact
	for {
		if len(rest) < len(value) || rest[:len(value)] != string(value) {
			return false
		}
		rest = rest[len(value):]
		if value, next = h.Next(m.Name, next); next < 0 {
			return rest == ""
		}
		if rest == "" || rest[0] != ',' {
			return false
		}
		rest = rest[1:]
	}
}
