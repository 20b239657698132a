package http2

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"github.com/hostmesh/hostmesh/proxy/message"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// render writes a head as lines, to compare.
func render(h *message.Head) string {
	var b strings.Builder
	if len(h.Bytes(h.MethodText)) > 0 {
		fmt.Fprintf(&b, "%s %s %s %s", h.Bytes(h.MethodText), h.Bytes(h.Scheme), h.Bytes(h.Authority), h.Bytes(h.Path))
		if h.HasQuery {
			fmt.Fprintf(&b, "?%s", h.Bytes(h.Query))
		}
	} else {
		fmt.Fprint(&b, h.Status)
	}
	for i := range h.Len() {
		f := h.Field(i)
		fmt.Fprintf(&b, "\n%s: %s", h.Bytes(f.Name), h.Bytes(f.Value))
	}
	return b.String()
}

// The examples of RFC 7541 appendix C, as sections of one connection each.
func TestRFC7541AppendixC(t *testing.T) {
	requests := []string{
		"GET http www.example.com /", "GET http www.example.com /\ncache-control: no-cache",
		"GET https www.example.com /index.html\ncustom-key: custom-value",
	}
	first := "\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\nlocation: https://www.example.com"
	responses := []string{
		"302" + first, "307" + first,
		"200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\nlocation: https://www.example.com\ncontent-encoding: gzip\n" +
			"set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
	}
	for _, c := range []struct {
		name  string
		kind  sectionKind
		size  int
		in    []string
		want  []string
		sizes []int
	}{
		{"C.3", requestSection, 4096, []string{
			"828684410f7777772e6578616d706c652e636f6d", "828684be58086e6f2d6361636865", "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
		}, requests, []int{57, 110, 164}},
		{"C.4", requestSection, 4096, []string{
			"828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf", "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
		}, requests, []int{57, 110, 164}},
		{"C.5", responseSection, 256, []string{
			"4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
			"4803333037c1c0bf",
			"88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
		}, responses, []int{222, 222, 215}},
		{"C.6", responseSection, 256, []string{
			"488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
			"4883640effc1c0bf",
			"88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
		}, responses, []int{222, 222, 215}},
	} {
		var d decoder
		d.init()
		d.table.resize(c.size)
		h, l := new(message.Head), Limits{}.orDefaults()
		for i, in := range c.in {
			var s section
			s.begin(h, c.kind, &l)
			if err := d.decode(unhex(t, in), &s); err != nil || !s.finish() {
				t.Fatalf("%s.%d: %v, malformed %v", c.name, i+1, err, s.malformed)
			}
			if got := render(h); got != c.want[i] {
				t.Errorf("%s.%d: got %q, want %q", c.name, i+1, got, c.want[i])
			}
			if int(d.table.size) != c.sizes[i] {
				t.Errorf("%s.%d: the table holds %d, want %d", c.name, i+1, d.table.size, c.sizes[i])
			}
		}
	}
}

func TestIntegers(t *testing.T) {
	for _, c := range []struct {
		in     string
		prefix int
		want   int
		ok     bool
	}{
		{"0a", 5, 10, true},
		{"1f9a0a", 5, 1337, true},
		{"2a", 8, 42, true},
		{"1f00", 5, 31, true},
		{"1fff", 5, 0, false},
		{"1f", 5, 0, false},
		{"1fffffffff0f", 5, 0, false},
		{"1f80808080808080808000", 5, 0, false},
		{"7f80808000", 7, 127, true},
	} {
		got, rest, ok := readInt(unhex(t, c.in), c.prefix)
		if got != c.want || ok != c.ok || ok && len(rest) != 0 {
			t.Errorf("%s: %d %v, want %d %v", c.in, got, ok, c.want, c.ok)
		}
		if c.ok && c.prefix < 8 {
			if again, _, ok := readInt(appendInt(nil, 0, c.prefix, c.want), c.prefix); again != c.want || !ok {
				t.Errorf("%d is not written as it is read", c.want)
			}
		}
	}
}

func TestHuffmanOfEveryByte(t *testing.T) {
	for c := range 256 {
		for _, text := range []string{string([]byte{byte(c)}), "aaa" + string([]byte{byte(c)}), string([]byte{byte(c), byte(c), byte(c)}), ""} {
			if got, ok := appendHuffman(nil, hpack.AppendHuffmanString(nil, text)); !ok || string(got) != text {
				t.Errorf("%q: got %q %v", text, got, ok)
			}
		}
	}
	for _, bad := range []string{"ff", "ffff", "ffffffff", "fffffffc", "1fff", "00", "f8ff", "fffffff0"} {
		_, ok := appendHuffman(nil, unhex(t, bad))
		if _, err := hpack.HuffmanDecodeToString(unhex(t, bad)); ok != (err == nil) {
			t.Errorf("%s: %v, the oracle says %v", bad, ok, err)
		}
	}
}

func FuzzHuffman(f *testing.F) {
	f.Add([]byte("\xf1\xe3\xc2\xe5\xf2:k\xa0\xab\x90\xf4\xff"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		got, ok := appendHuffman(nil, in)
		want, err := hpack.HuffmanDecodeToString(in)
		if ok != (err == nil) || ok && string(got) != want {
			t.Fatalf("%x: %q %v, the oracle says %q %v", in, got, ok, want, err)
		}
		if again, ok := appendHuffman(nil, hpack.AppendHuffmanString(nil, string(in))); !ok || !bytes.Equal(again, in) {
			t.Fatalf("%q is not read as it was written", in)
		}
	})
}

// FuzzDecode compares with the oracle over several sections of one connection. The parts of the input are split at a marker.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"8286838283848586878889bebdbcbbba3f", "4001610162bebebebebebebebebebe80bebebebebebebebe", "4001610162bebebebebebebebebebeffbebebebebebebe", "40016101628281bdbebebebebebebebebfbebebebe",
		"828684410f7777772e6578616d706c652e636f6d0d0a828684be58086e6f2d6361636865", "828684418cf1e3c2e5f23a6ba0ab90f4ff0d0a828684be5886a8eb10649cbf",
		"3fe11f82", "2082", "8220", "40000161", "80", "ff", "10", "be", "4101", "0001410142", "", "8286000161016210c2016101be0f2f016340016101627f80be", "828600018101ff",
	} {
		f.Add(unhex(f, seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var d, narrow decoder
		d.init()
		narrow.init()
		l, one := Limits{HeaderBytes: 1 << 20, Fields: 1 << 15}.orDefaults(), Limits{Fields: 1}.orDefaults()
		oracle := hpack.NewDecoder(tableSize, nil)
		h := new(message.Head)
		for part := range bytes.SplitSeq(in, []byte("\r\n")) {
			want, oracleErr := oracle.DecodeFull(part)
			var s section
			s.begin(h, requestSection, &l)
			err := d.decode(part, &s)
			var passed section
			passed.begin(new(message.Head), requestSection, &one)
			if again := narrow.decode(part, &passed); again != err || !sameEntries(&d.table, &narrow.table) {
				t.Fatalf("%x: %v, and %v where fields beyond the first are passed over; entries %d and %d", part, err, again, d.table.count, narrow.table.count)
			}
			if err != nil {
				// Where we are stricter than the oracle: an update that is not at the start of a section, and integers of more than five bytes.
				return
			}
			if oracleErr != nil {
				t.Fatalf("%x: accepted, the oracle says %v", part, oracleErr)
			}
			if s.fields != len(want) {
				t.Fatalf("%x: %d fields, the oracle has %d", part, s.fields, len(want))
			}
			if s.malformed {
				continue
			}
			var lines []string
			for _, w := range want {
				if !w.IsPseudo() {
					lines = append(lines, w.Name+": "+w.Value)
				}
			}
			if _, got, _ := strings.Cut(render(h), "\n"); got != strings.Join(lines, "\n") {
				t.Fatalf("%x: got %q, the oracle %q", part, got, lines)
			}
		}
	})
}

// sameEntries tells whether two tables are in step.
func sameEntries(a, b *table) bool {
	if a.count != b.count || a.size != b.size {
		return false
	}
	for i := range int(a.count) {
		x, y := a.get(i), b.get(i)
		xName, xValue := a.texts(x)
		yName, yValue := b.texts(y)
		if !bytes.Equal(xName, yName) || !bytes.Equal(xValue, yValue) || x.token != y.token || x.bad != y.bad {
			return false
		}
	}
	return true
}

// Random sections, from our encoder to the oracle's decoder and ours, and from the oracle's encoder to ours.
func TestEncoderAndDecoderAgreeWithTheOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var e encoder
	e.init(new(finder))
	var d, d2 decoder
	d.init()
	d2.init()
	oracle := hpack.NewDecoder(tableSize, nil)
	var theirs bytes.Buffer
	their := hpack.NewEncoder(&theirs)
	l := Limits{}.orDefaults()
	h, got := new(message.Head), new(message.Head)
	for round := range 3000 {
		fillRandom(h, r)
		if r.IntN(50) == 0 {
			e.limit(uint32(r.IntN(6000)))
		}
		if r.IntN(20) == 0 { // the connection rests
			for _, t := range []*table{&e.table, &d.table, &d2.table} {
				t.trim()
			}
			e.use(new(finder))
		}
		block := e.appendHead(e.begin(nil), h, nil)
		fields, err := oracle.DecodeFull(block)
		if err != nil {
			t.Fatalf("round %d: the oracle says %v", round, err)
		}
		theirs.Reset()
		for _, f := range fields {
			if err := their.WriteField(f); err != nil {
				t.Fatal(err)
			}
		}
		for _, in := range []struct {
			d *decoder
			b []byte
		}{{&d, block}, {&d2, theirs.Bytes()}} {
			var s section
			s.begin(got, requestSection, &l)
			if err := in.d.decode(in.b, &s); err != nil || !s.finish() {
				t.Fatalf("round %d: %v, malformed %v", round, err, s.malformed)
			}
			if render(got) != render(h) {
				t.Fatalf("round %d: got %q, want %q", round, render(got), render(h))
			}
		}
	}
	if e.table.added < 100 {
		t.Errorf("the encoder indexed only %d fields", e.table.added)
	}
}

func fillRandom(h *message.Head, r *rand.Rand) {
	h.Reset()
	h.MethodText = h.Put([]string{"GET", "POST", "PUT"}[r.IntN(3)])
	h.Method = message.ParseMethod(h.Bytes(h.MethodText))
	h.Scheme, h.Authority = h.Put([]string{"http", "https"}[r.IntN(2)]), h.Put(fmt.Sprintf("host%d", r.IntN(3)))
	h.SetPath(h.Put([]string{"/", "/a", "/b?c=d", "/e?"}[r.IntN(4)]))
	for range r.IntN(12) {
		name := fmt.Sprintf("x-%d", r.IntN(20))
		if r.IntN(2) == 0 {
			if n := message.Name(r.IntN(int(message.NumNames))); !connectionNames.Has(n) && n != message.Other && n != message.TE && n != message.ContentLength {
				name = n.String()
			}
		}
		h.AddField(name, strings.Repeat("v", 40*r.IntN(5))+fmt.Sprint(r.IntN(4)))
	}
}

// Secrets never reach a table, and a field that came as never indexed goes on as such.
func TestSensitiveFieldsAreNeverIndexed(t *testing.T) {
	var e encoder
	e.init(new(finder))
	for range 3 {
		for _, n := range []message.Name{message.Authorization, message.Cookie, message.SetCookie, message.ProxyAuthorization} {
			if b := e.field(nil, n, nil, []byte("secret"), false); b[0]&0xf0 != 0x10 {
				t.Errorf("%v is written as %x", n, b)
			}
		}
		if b := e.field(nil, message.Other, []byte("x-token"), []byte("secret"), true); b[0] != 0x10 {
			t.Errorf("a sensitive field is written as %x", b)
		}
	}
	if e.table.count != 0 {
		t.Error("a secret is in the table")
	}
	var d decoder
	d.init()
	l := Limits{}.orDefaults()
	h := new(message.Head)
	var s section
	s.begin(h, trailerSection, &l)
	if err := d.decode(unhex(t, "1001610162"), &s); err != nil || !h.Field(0).Sensitive {
		t.Errorf("never indexed is not noted: %v", err)
	}
}

// A section that says little and means much costs what was sent, not what it means (CVE-2022-41723 and the HPACK bomb).
func TestCVEClass15_HPACKBombIsBounded(t *testing.T) {
	var d decoder
	d.init()
	l := Limits{}.orDefaults()
	h := new(message.Head)
	block := appendLiteral(nil, 0x40, 6, message.Other, []byte("a"), bytes.Repeat([]byte("b"), 4000))
	for range 50000 {
		block = append(block, 0xbe)
	}
	var s section
	s.begin(h, requestSection, &l)
	if err := d.decode(block, &s); err != nil || !s.over {
		t.Fatalf("%v, over %v", err, s.over)
	}
	if cap(h.Text) > 4*l.HeaderBytes {
		t.Errorf("the head holds %d bytes", cap(h.Text))
	}
	if d.table.count != 1 {
		t.Error("the table is out of step")
	}
	// What is passed over is judged all the same: entries behind it come in, and references to none are errors.
	s.begin(h, requestSection, &l)
	if err := d.decode(append(bytes.Clone(block), 0x40, 1, 'c', 1, 'd'), &s); err != nil || d.table.count != 2 {
		t.Errorf("%v, %d entries", err, d.table.count)
	}
	if name, value := d.table.texts(d.table.get(0)); string(name) != "c" || string(value) != "d" {
		t.Errorf("the newest entry is %s: %s", name, value)
	}
	for _, wrong := range []byte{0x80, 0xbf, 0xfe, 0x20} {
		d.init()
		s.begin(h, requestSection, &l)
		if err := d.decode(append(bytes.Clone(block), wrong, 0xbe), &s); !errors.Is(err, CompressionError) {
			t.Errorf("%#x behind references: %v", wrong, err)
		}
	}
}

// Inputs that have made decoders panic or lose step.
func TestCVEClass15_BrokenSectionsAreErrors(t *testing.T) {
	l := Limits{}.orDefaults()
	for _, in := range []string{
		"80", "be", "ff", "ffffffffff7f", "40", "4001", "400161", "40016102", "0085ffffffffff01", "008101", "3fe21f", "8220", "7f", "1f", "0f80808080808080",
	} {
		var d decoder
		d.init()
		var s section
		s.begin(new(message.Head), requestSection, &l)
		if err := d.decode(unhex(t, in), &s); err != CompressionError {
			t.Errorf("%s: %v, want a compression error", in, err)
		}
	}
}

// References are passed over eight at a time just as they are one at a time, at every place and for every size of the tables.
func TestReferencesArePassedOver(t *testing.T) {
	for known := 2; known < 200; known++ {
		for b := range 256 {
			good := b > 0x80 && b < 0xff && b&0x7f < known
			for at := range 8 {
				p := bytes.Repeat([]byte{0x81}, 16)
				p[8+at] = byte(b)
				want := 8
				if good {
					want = 0
				}
				if got := len(skipReferences(p, known)); got != want {
					t.Fatalf("%#x at %d of %d entries: %d bytes are left, want %d", b, at, known, got, want)
				}
			}
		}
	}
}
