package cli

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// printable escapes what would do something to the operator's terminal or to the table: a registry, or any client of
// xDS, chooses names and reasons as it likes.
func printable(s string) string {
	ok := func(r rune) bool { return r != utf8.RuneError && strconv.IsPrint(r) }
	if strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if ok(r) {
			b.WriteRune(r)
		} else {
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

// escaped writes the same JSON, or YAML, so that a terminal shows it as text. JSON leaves DEL, C1 and bidirectional controls as
// they are, YAML some of them; outside of strings there are none. wide writes a rune that needs more than four digits.
func escaped(text []byte, wide func(rune) string) []byte {
	out := make([]byte, 0, len(text))
	for _, r := range string(text) {
		switch {
		case r == '\n' || r == '\t' || r == '\r' || strconv.IsPrint(r) && r != utf8.RuneError && !unicode.Is(unicode.Cf, r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			out = append(out, wide(r)...)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// surrogates is how JSON writes a wide rune.
func surrogates(r rune) string {
	high, low := utf16.EncodeRune(r)
	return fmt.Sprintf(`\u%04x\u%04x`, high, low)
}

// codePoint is how YAML writes a wide rune.
func codePoint(r rune) string { return fmt.Sprintf(`\U%08x`, r) }
