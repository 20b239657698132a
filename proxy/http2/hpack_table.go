package http2

import "github.com/hostmesh/hostmesh/proxy/message"

// Pseudo-fields, as names behind the known ones.
const (
	pseudoAuthority message.Name = message.NumNames + iota
	pseudoMethod
	pseudoPath
	pseudoScheme
	pseudoStatus
	pseudoProtocol
	pseudoUnknown
	numTokens
)

var pseudoTexts = [numTokens - message.NumNames]string{":authority", ":method", ":path", ":scheme", ":status", ":protocol", ":"}

// tokenOf finds the name of a field, pseudo-fields with it; b is in lower case or refused already.
func tokenOf(b []byte) message.Name {
	if len(b) == 0 || b[0] != ':' {
		return message.Lookup(b)
	}
	for i, text := range pseudoTexts {
		if string(b) == text {
			return message.NumNames + message.Name(i)
		}
	}
	return pseudoUnknown
}

func tokenText(n message.Name) string {
	if n >= message.NumNames {
		return pseudoTexts[n-message.NumNames]
	}
	return n.String()
}

// staticTable is RFC 7541 appendix A.
var staticTable = [...]struct {
	name  message.Name
	value string
}{
	1: {pseudoAuthority, ""},
	{pseudoMethod, "GET"},
	{pseudoMethod, "POST"},
	{pseudoPath, "/"},
	{pseudoPath, "/index.html"},
	{pseudoScheme, "http"},
	{pseudoScheme, "https"},
	{pseudoStatus, "200"},
	{pseudoStatus, "204"},
	{pseudoStatus, "206"},
	{pseudoStatus, "304"},
	{pseudoStatus, "400"},
	{pseudoStatus, "404"},
	{pseudoStatus, "500"},
	{message.AcceptCharset, ""},
	{message.AcceptEncoding, "gzip, deflate"},
	{message.AcceptLanguage, ""},
	{message.AcceptRanges, ""},
	{message.Accept, ""},
	{message.AccessControlAllowOrigin, ""},
	{message.Age, ""},
	{message.Allow, ""},
	{message.Authorization, ""},
	{message.CacheControl, ""},
	{message.ContentDisposition, ""},
	{message.ContentEncoding, ""},
	{message.ContentLanguage, ""},
	{message.ContentLength, ""},
	{message.ContentLocation, ""},
	{message.ContentRange, ""},
	{message.ContentType, ""},
	{message.Cookie, ""},
	{message.Date, ""},
	{message.ETag, ""},
	{message.Expect, ""},
	{message.Expires, ""},
	{message.From, ""},
	{message.Host, ""},
	{message.IfMatch, ""},
	{message.IfModifiedSince, ""},
	{message.IfNoneMatch, ""},
	{message.IfRange, ""},
	{message.IfUnmodifiedSince, ""},
	{message.LastModified, ""},
	{message.Link, ""},
	{message.Location, ""},
	{message.MaxForwards, ""},
	{message.ProxyAuthenticate, ""},
	{message.ProxyAuthorization, ""},
	{message.Range, ""},
	{message.Referer, ""},
	{message.Refresh, ""},
	{message.RetryAfter, ""},
	{message.Server, ""},
	{message.SetCookie, ""},
	{message.StrictTransportSecurity, ""},
	{message.TransferEncoding, ""},
	{message.UserAgent, ""},
	{message.Vary, ""},
	{message.Via, ""},
	{message.WWWAuthenticate, ""},
}

const firstDynamic = len(staticTable)

// staticNames tells where a name stands first in the static table, 0 if nowhere.
var staticNames = makeStaticNames()

func makeStaticNames() (t [numTokens]uint8) {
	for i := len(staticTable) - 1; i > 0; i-- {
		t[staticTable[i].name] = uint8(i)
	}
	return t
}

// entry is one field in a dynamic table.
type entry struct {
	at          uint16 // of the name in the table's text; the value stands behind it
	name, value uint16 // lengths
	token       message.Name
	bad         bool // a field that makes its message malformed; seen once, when it came in
}

func (e entry) size() int { return int(e.name) + int(e.value) + headerOverhead }

// table is a dynamic table (RFC 7541 section 2.3.2). Its memory grows with what is in it, to twice its maximum at most.
type table struct {
	text    []byte
	entries []entry // the ring; its length is a power of two
	oldest  uint16
	count   uint16
	size    uint16
	max     uint16
	added   uint32 // entries ever added
}

func (t *table) get(i int) *entry { // 0 is the newest
	return t.slot(int(t.count) - 1 - i)
}

// slot is where the i-th oldest entry stands, or is to stand.
func (t *table) slot(i int) *entry { return &t.entries[(int(t.oldest)+i)&(len(t.entries)-1)] }

func (t *table) texts(e *entry) (name, value []byte) {
	at, mid := int(e.at), int(e.at)+int(e.name)
	return t.text[at:mid:mid], t.text[mid : mid+int(e.value) : mid+int(e.value)]
}

func (t *table) resize(limit int) {
	t.max = uint16(limit)
	t.evict(limit)
}

func (t *table) evict(size int) {
	for int(t.size) > size {
		t.size -= uint16(t.entries[t.oldest].size())
		t.oldest = (t.oldest + 1) & uint16(len(t.entries)-1)
		t.count--
	}
	if t.count == 0 {
		t.text = t.text[:0]
	}
}

// add adds a field; name and value do not lie in the table. One that is larger than the table empties it (section 4.4).
func (t *table) add(name, value []byte, token message.Name, bad bool) {
	size := len(name) + len(value) + headerOverhead
	if size > int(t.max) {
		t.evict(0)
		return
	}
	t.evict(int(t.max) - size)
	if int(t.count) == len(t.entries) {
		t.arrange(max(fewEntries, 2*len(t.entries)))
	}
	if len(t.text)+len(name)+len(value) > 2*tableSize {
		t.compact()
	}
	*t.slot(int(t.count)) = entry{uint16(len(t.text)), uint16(len(name)), uint16(len(value)), token, bad}
	t.text = append(append(t.text, name...), value...)
	t.count++
	t.size += uint16(size)
	t.added++
}

// arrange makes the ring so long.
func (t *table) arrange(n int) {
	ring := make([]entry, n)
	for i := range int(t.count) {
		ring[i] = *t.slot(i)
	}
	t.entries, t.oldest = ring, 0
}

// compact moves the texts of what is left to the front.
func (t *table) compact() {
	from := t.dead()
	t.text = t.text[:copy(t.text, t.text[from:])]
	for i := range int(t.count) {
		t.slot(i).at -= uint16(from)
	}
}

// dead is how much of the text belongs to no entry any more.
func (t *table) dead() int {
	if t.count == 0 {
		return len(t.text)
	}
	return int(t.slot(0).at)
}

const (
	fewEntries = 4   // what a ring has room for at least
	spareBytes = 128 // of text that a table keeps for what may come
)

// trim gives back what memory the table has beyond its entries, unless that is little: a table that stays as it is costs nothing.
func (t *table) trim() {
	n := fewEntries
	for n < int(t.count) {
		n *= 2
	}
	if n < len(t.entries) {
		t.arrange(n)
	}
	if cap(t.text)-len(t.text)+t.dead() > spareBytes {
		t.compact()
		t.text = append(make([]byte, 0, len(t.text)), t.text...)
	}
}
