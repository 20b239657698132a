package router

import (
	"bytes"
	"slices"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// normalize returns the path to route and to forward. redirect tells that the client is to ask for it instead.
func (r *Request) normalize() (path []byte, ambiguous, redirect bool, err error) {
	path = r.Path
	if len(path) == 1 && path[0] == '*' {
		return path, false, false, nil
	}
	if r.Slashes != config.SlashesKeep && escapedSlash(path) {
		if r.Slashes == config.SlashesReject {
			return nil, false, false, ErrEscapedSlash
		}
		// Before dot segments are removed: others may come of it.
		r.plain = unescapeSlashes(slices.Grow(r.plain[:0], len(path)), path)
		path, redirect = r.plain, r.Slashes == config.SlashesRedirect
	}
	r.normal = slices.Grow(r.normal[:0], len(path)) // a normal form is never longer
	if path, ambiguous, err = Normalize(r.normal, path); err != nil {
		return nil, false, false, err
	}
	if r.MergeSlashes && bytes.Contains(path, doubleSlash) {
		path = mergeSlashes(r.normal[:0], path)
		ambiguous = needsWork(path)
	}
	if redirect && len(path) > 1 && path[1] == '/' {
		return nil, false, false, ErrEscapedSlash // the client would take what follows for the name of a host
	}
	return path, ambiguous, redirect, nil
}

var doubleSlash = []byte("//")

// escapedSlash reports whether a path has a slash or a backslash as an escape.
func escapedSlash(path []byte) bool {
	for rest := path; ; {
		i := bytes.IndexByte(rest, '%')
		if i < 0 {
			return false
		}
		if rest = rest[i:]; slashEscape(rest) {
			return true
		}
		rest = rest[1:]
	}
}

// slashEscape reports whether b starts with the escape of a slash or of a backslash.
func slashEscape(b []byte) bool {
	c, ok := escape(b)
	return ok && (c == '/' || c == '\\')
}

// unescapeSlashes appends path with a slash in the place of each escaped slash or backslash.
func unescapeSlashes(dst, path []byte) []byte {
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && slashEscape(path[i:]) {
			dst = append(dst, '/')
			i += 2
			continue
		}
		dst = append(dst, path[i])
	}
	return dst
}

// mergeSlashes appends path with one slash for each row of them. dst may be the start of path.
func mergeSlashes(dst, path []byte) []byte {
	for i, c := range path {
		if c == '/' && i > 0 && path[i-1] == '/' {
			continue
		}
		dst = append(dst, c)
	}
	return dst
}
