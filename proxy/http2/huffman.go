package http2

// The Huffman code of RFC 7541 appendix B is canonical: the lengths of its codes tell the codes. huffmanLengths has a letter
// for each byte, 'A' for a code of 5 bits up to 'Z' for one of 30. The end-of-string code is 30 ones.
const huffmanLengths = "ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBHF" +
	"IBCCCCCCCCCCCCCCCCCCCCCCDCDIOIJBKABABABBBACCBBBABCBAABCCCCCKGJIX" +
	"PRPPRRRSRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRTQRSSQQRQSRSSPRRRSRRS" +
	"VVPORSRUVVVWWVTUOQVWWVWTQQVVXWWWPTPQRQQSRRUUTTVSVWVVWWWWWXWWWWWV"

const (
	longestCode = 30
	quickBits   = 10 // codes up to that length are found by one look into a table
)

// huffmanTable decodes. quick tells byte and length of the code that the next bits start with, length 0 if it is a longer one.
// The others are found by length: codes of length n start at first[n] (aligned to the left of 32 bits) and stand for the bytes
// from symbols[index[n]].
type huffmanTable struct {
	quick   [1 << quickBits]struct{ symbol, length uint8 }
	first   [longestCode + 2]uint32
	index   [longestCode + 2]uint16
	symbols [256]byte
}

var huffman = makeHuffman()

func makeHuffman() (t huffmanTable) {
	code, n := uint32(0), 0
	for length := 5; length <= longestCode; length++ {
		t.first[length], t.index[length] = code, uint16(n)
		for s := range 256 {
			if int(huffmanLengths[s]-'A')+5 != length {
				continue
			}
			t.symbols[n] = byte(s)
			n++
			if length <= quickBits {
				for i := range 1 << (quickBits - length) {
					q := &t.quick[code>>(32-quickBits)+uint32(i)]
					q.symbol, q.length = byte(s), uint8(length)
				}
			}
			code += 1 << (32 - length)
		}
	}
	t.first[longestCode+1] = code // end of string
	return t
}

// appendHuffman decodes src. ok is false for the end-of-string code and for padding that is not the start of it or longer than
// seven bits (RFC 7541 section 5.2).
func appendHuffman(dst, src []byte) (out []byte, ok bool) {
	var bits uint64 // the next bits, from the left
	have := 0
	for {
		for have <= 56 && len(src) > 0 {
			bits |= uint64(src[0]) << (56 - have)
			src = src[1:]
			have += 8
		}
		q := huffman.quick[bits>>(64-quickBits)]
		length, symbol := int(q.length), q.symbol
		if length == 0 {
			if length, symbol = longCode(uint32(bits >> 32)); length == 0 && have >= longestCode {
				return dst, false
			}
		}
		if length == 0 || length > have {
			break
		}
		dst = append(dst, symbol)
		bits <<= length
		have -= length
	}
	return dst, have < 8 && bits>>(64-have) == 1<<have-1
}

// longCode finds a code longer than quickBits at the left of bits; length 0 means end of string.
func longCode(bits uint32) (length int, symbol byte) {
	if bits >= huffman.first[longestCode+1] {
		return 0, 0
	}
	length = quickBits + 1
	for length < longestCode && bits >= huffman.first[length+1] {
		length++
	}
	return length, huffman.symbols[int(huffman.index[length])+int((bits-huffman.first[length])>>(32-length))]
}
