package registry

import "strings"

// Label makes an RFC 1123 label of a name as a registry spells it: lower case, "-" for what may not stand in one, 63
// characters at most. It is "" when nothing is left. Two names may have one label; who reads a registry tells that as
// a Conflict and keeps the spelling in Service.Original.
func Label(name string) string {
	label := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '-':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	label = strings.TrimLeft(label, "-")
	return strings.TrimRight(label[:min(len(label), 63)], "-")
}
