package accesslog

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// stampPart is a piece of a time format: a text, or what verb stands for with a number of digits.
type stampPart struct {
	text   string
	verb   byte // 0: text
	digits int
}

const maxStamp = 1024 // bytes of a time format

// localStamp is the time format where none is given, of a zone that is not known beforehand.
const localStamp = "%Y-%m-%dT%H:%M:%E3S%z"

// Verbs that are no letter of strftime.
const (
	verbFraction = 'f' // %f and %3f
	verbSeconds  = 'E' // %E3S
	verbZone     = ':' // %Ez
)

// composed are the verbs that stand for others.
var composed = map[byte]string{'D': "%m/%d/%y", 'F': "%Y-%m-%d", 'T': "%H:%M:%S", 'R': "%H:%M"}

// parseStamp reads a time format as strftime has it, with Envoy's fractions (%f, %3f) and epoch seconds (%s), and %E3S.
func parseStamp(format string) ([]stampPart, error) {
	if len(format) > maxStamp {
		return nil, fmt.Errorf("got a time format of %d bytes, want at most %d", len(format), maxStamp)
	}
	if format == "" {
		format = "%Y-%m-%dT%H:%M:%E3SZ"
	}
	var parts []stampPart
	literal := ""
	add := func(p stampPart) {
		if literal != "" {
			parts = append(parts, stampPart{text: literal})
			literal = ""
		}
		parts = append(parts, p)
	}
	for i := 0; i < len(format); i++ {
		c := format[i]
		if c == '\n' || c == '\r' {
			return nil, fmt.Errorf("got a line end in the time format, want none")
		}
		if c != '%' {
			literal += format[i : i+1]
			continue
		}
		rest := format[i+1:]
		switch {
		case rest == "":
			return nil, fmt.Errorf("got %% at the end of the time format, want a letter behind it")
		case rest[0] == '%':
			literal += "%"
			i++
		case rest[0] == 'f':
			add(stampPart{verb: verbFraction, digits: 9})
			i++
		case len(rest) > 1 && rest[0] >= '1' && rest[0] <= '9' && rest[1] == 'f':
			add(stampPart{verb: verbFraction, digits: int(rest[0] - '0')})
			i += 2
		case len(rest) > 2 && rest[0] == 'E' && rest[1] >= '0' && rest[1] <= '9' && rest[2] == 'S':
			add(stampPart{verb: verbSeconds, digits: int(rest[1] - '0')})
			i += 3
		case len(rest) > 1 && rest[0] == 'E' && rest[1] == 'z':
			add(stampPart{verb: verbZone})
			i += 2
		case composed[rest[0]] != "":
			inner, err := parseStamp(composed[rest[0]])
			if err != nil {
				return nil, err
			}
			for _, p := range inner {
				if p.verb == 0 {
					literal += p.text
				} else {
					add(p)
				}
			}
			i++
		case isVerb(rest[0]):
			add(stampPart{verb: rest[0]})
			i++
		default:
			return nil, fmt.Errorf("got %%%q in the time format, want one of %%Y %%m %%d %%H %%M %%S %%s %%f %%3f %%E3S and their like", clip(rest[:1]))
		}
	}
	if literal != "" {
		parts = append(parts, stampPart{text: literal})
	}
	return parts, nil
}

func isVerb(c byte) bool {
	switch c {
	case 'Y', 'y', 'C', 'm', 'd', 'e', 'j', 'H', 'I', 'M', 'S', 'p', 's', 'a', 'A', 'b', 'h', 'B', 'u', 'w', 'z', 'Z':
		return true
	}
	return false
}

// How a stamp is written.
const (
	stampEmitted = 1 << iota // when the record was done, and not when it began
	stampLocal               // in the zone of this host, and not in UTC
)

// stampOperator compiles START_TIME(format) and its like.
func stampOperator(call call) (op, error) {
	parts, err := parseStamp(call.params)
	if err != nil {
		return op{}, fmt.Errorf("%%%s%%: %w", call.name, err)
	}
	o := op{stamp: parts, write: (*op).stampOf}
	if strings.HasPrefix(call.name, "EMIT_") {
		o.arg |= stampEmitted
	}
	if strings.HasSuffix(call.name, "_LOCAL") {
		o.arg |= stampLocal
		if call.params == "" {
			o.stamp, err = parseStamp(localStamp)
		}
	}
	return o, err
}

func (o *op) stampOf(dst []byte, r *Record) ([]byte, valueKind) {
	t := r.Start
	if o.arg&stampEmitted != 0 {
		t = t.Add(max(r.Duration, 0))
	}
	if o.arg&stampLocal != 0 {
		t = t.Local()
	}
	return appendStamp(dst, o.stamp, t), text
}

func appendStamp(dst []byte, parts []stampPart, t time.Time) []byte {
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	for i := range parts {
		p := &parts[i]
		switch p.verb {
		case 0:
			dst = append(dst, p.text...)
		case 'Y':
			dst = strconv.AppendInt(dst, int64(year), 10)
		case 'm':
			dst = padded(dst, int(month), 2)
		case 'd':
			dst = padded(dst, day, 2)
		case 'H':
			dst = padded(dst, hour, 2)
		case 'M':
			dst = padded(dst, minute, 2)
		case 'S':
			dst = padded(dst, second, 2)
		case verbSeconds:
			dst = padded(dst, second, 2)
			if p.digits > 0 {
				dst = fraction(append(dst, '.'), t, p.digits)
			}
		case verbFraction:
			dst = fraction(dst, t, p.digits)
		case 's':
			dst = strconv.AppendInt(dst, t.Unix(), 10)
		default:
			dst = appendRare(dst, p.verb, t)
		}
	}
	return dst
}

func appendRare(dst []byte, verb byte, t time.Time) []byte {
	switch verb {
	case 'y':
		return padded(dst, t.Year()%100, 2)
	case 'C':
		return padded(dst, t.Year()/100, 2)
	case 'e':
		if t.Day() < 10 {
			dst = append(dst, ' ')
		}
		return strconv.AppendInt(dst, int64(t.Day()), 10)
	case 'j':
		return padded(dst, t.YearDay(), 3)
	case 'I':
		return padded(dst, (t.Hour()+11)%12+1, 2)
	case 'p':
		if t.Hour() < 12 {
			return append(dst, "AM"...)
		}
		return append(dst, "PM"...)
	case 'a':
		return append(dst, t.Weekday().String()[:3]...)
	case 'A':
		return append(dst, t.Weekday().String()...)
	case 'b', 'h':
		return append(dst, t.Month().String()[:3]...)
	case 'B':
		return append(dst, t.Month().String()...)
	case 'u':
		return strconv.AppendInt(dst, int64((t.Weekday()+6)%7+1), 10)
	case 'w':
		return strconv.AppendInt(dst, int64(t.Weekday()), 10)
	case 'z':
		return zone(dst, t, "")
	case verbZone:
		return zone(dst, t, ":")
	}
	name, _ := t.Zone()
	return append(dst, name...)
}

// zone writes how far t is ahead of UTC, in hours and minutes.
func zone(dst []byte, t time.Time, colon string) []byte {
	_, ahead := t.Zone()
	sign := byte('+')
	if ahead < 0 {
		sign, ahead = '-', -ahead
	}
	dst = padded(append(dst, sign), ahead/3600, 2)
	return padded(append(dst, colon...), ahead/60%60, 2)
}

func padded(dst []byte, n, width int) []byte {
	for limit := 10; width > 1; width, limit = width-1, limit*10 {
		if n < limit {
			for ; width > 1; width-- {
				dst = append(dst, '0')
			}
			break
		}
	}
	return strconv.AppendInt(dst, int64(n), 10)
}

// fraction writes the first digits behind the second's point.
func fraction(dst []byte, t time.Time, digits int) []byte {
	n := t.Nanosecond()
	for unit := 100_000_000; digits > 0; digits-- {
		dst = append(dst, byte('0'+n/unit%10))
		unit /= 10
	}
	return dst
}
