// Package http1 is the HTTP/1.1 protocol core without I/O: bytes in, actions out.
//
// It parses heads ([Request], [Response]) into the form that all versions of HTTP share ([message.Head]), follows bodies ([Body])
// and writes heads, whatever they came in ([AppendRequest], [AppendResponse]). It is strict (RFC 9112): what two readers might
// understand differently is refused, never repaired, so nothing ambiguous is forwarded. It is pure, allocates nothing once its
// arrays have grown, and nothing in it is safe for concurrent use.
package http1

// Limits bounds a head. A limit of 0 takes its default.
type Limits struct {
	HeadBytes int // the whole head with its last CRLF; default 60 KiB
	Fields    int // field lines; default 100, at most 65535
}

const (
	defaultHeadBytes = 60 << 10
	defaultFields    = 100
	maxFields        = 1<<16 - 1
	maxMethod        = 32 // bytes of a method; longer ones exist nowhere
	maxOptions       = 16 // tokens in the Connection fields of one head
)

func (l Limits) orDefaults() Limits {
	if l.HeadBytes <= 0 {
		l.HeadBytes = defaultHeadBytes
	}
	if l.Fields <= 0 {
		l.Fields = defaultFields
	}
	l.Fields = min(l.Fields, maxFields)
	return l
}

// Error says why a message is refused. It is a constant: to make or compare one allocates nothing. The connection it came
// on cannot be used any further.
type Error uint8

// The reasons to refuse a message.
const (
	ErrBareLF Error = iota + 1
	ErrBareCR
	ErrHeadTooLarge
	ErrTargetTooLong
	ErrTooManyFields
	ErrRequestLine
	ErrMethod
	ErrMethodTooLong
	ErrTarget
	ErrAuthority
	ErrVersion
	ErrVersionUnsupported
	ErrHTTP2Preface
	ErrConnect
	ErrStatusLine
	ErrFolding
	ErrFieldName
	ErrFieldValue
	ErrHostMissing
	ErrHostDuplicate
	ErrHost
	ErrLengthDuplicate
	ErrLength
	ErrLengthAndCoding
	ErrCoding
	ErrCodingUnknown
	ErrCodingVersion
	ErrConnectionOptions
	ErrExpect
	ErrUpgrade
	ErrTraceBody
	ErrChunkSize
	ErrChunkExtension
	ErrChunkEnd
	ErrTrailer
	ErrTruncated
)

type errorText struct {
	status int
	reason string
	text   string
}

var errorTexts = [...]errorText{
	ErrBareLF:             {400, "http1.bare_lf", "line ends in LF without CR"},
	ErrBareCR:             {400, "http1.bare_cr", "CR without LF"},
	ErrHeadTooLarge:       {431, "http1.head_too_large", "head exceeds its limit"},
	ErrTargetTooLong:      {414, "http1.request_line_too_long", "request line exceeds the limit of the head"},
	ErrTooManyFields:      {431, "http1.too_many_headers", "too many field lines"},
	ErrRequestLine:        {400, "http1.codec_error", "request line is not 'method target version'"},
	ErrMethod:             {400, "http1.invalid_method", "method is not a token"},
	ErrMethodTooLong:      {501, "http1.unknown_method", "method is too long to be known"},
	ErrTarget:             {400, "http1.invalid_target", "request target is invalid"},
	ErrAuthority:          {400, "http1.invalid_authority", "authority of the request target is invalid"},
	ErrVersion:            {400, "http1.invalid_version", "HTTP version is malformed"},
	ErrVersionUnsupported: {505, "http1.unsupported_version", "HTTP version is neither 1.0 nor 1.1"},
	ErrHTTP2Preface:       {505, "http1.http2_preface", "HTTP/2 preface on an HTTP/1 connection"},
	ErrConnect:            {400, "http1.connect_with_body", "CONNECT with Content-Length or Transfer-Encoding"},
	ErrStatusLine:         {502, "http1.invalid_status_line", "status line is malformed"},
	ErrFolding:            {400, "http1.line_folding", "field line starts with whitespace"},
	ErrFieldName:          {400, "http1.invalid_header_name", "field name is not a token followed by a colon"},
	ErrFieldValue:         {400, "http1.invalid_header_value", "field value has a control character"},
	ErrHostMissing:        {400, "http1.missing_host", "HTTP/1.1 request without Host"},
	ErrHostDuplicate:      {400, "http1.duplicate_host", "more than one Host"},
	ErrHost:               {400, "http1.invalid_host", "Host is empty or invalid"},
	ErrLengthDuplicate:    {400, "http1.duplicate_content_length", "more than one Content-Length"},
	ErrLength:             {400, "http1.invalid_content_length", "Content-Length is not a decimal number below 2^63"},
	ErrLengthAndCoding:    {400, "http1.content_length_and_transfer_encoding", "both Content-Length and Transfer-Encoding"},
	ErrCoding:             {400, "http1.invalid_transfer_encoding", "Transfer-Encoding is not one final 'chunked'"},
	ErrCodingUnknown:      {501, "http1.unknown_transfer_encoding", "Transfer-Encoding other than chunked"},
	ErrCodingVersion:      {400, "http1.transfer_encoding_in_http10", "Transfer-Encoding in an HTTP/1.0 message"},
	ErrConnectionOptions:  {400, "http1.invalid_connection_header", "Connection is not a short list of tokens"},
	ErrExpect:             {417, "http1.unknown_expectation", "expectation other than 100-continue"},
	ErrUpgrade:            {400, "http1.invalid_upgrade", "upgrade with a body, by CONNECT, or with more than one Upgrade field"},
	ErrTraceBody:          {400, "http1.trace_with_body", "TRACE with a body"},
	ErrChunkSize:          {400, "http1.invalid_chunk_size", "chunk size is not a hexadecimal number below 2^63"},
	ErrChunkExtension:     {400, "http1.invalid_chunk_extension", "chunk extension is malformed or too long"},
	ErrChunkEnd:           {400, "http1.invalid_chunk_end", "chunk does not end in CRLF"},
	ErrTrailer:            {400, "http1.invalid_trailer", "trailer section is malformed or too long"},
	ErrTruncated:          {400, "http1.truncated_body", "message ends before its body does"},
}

// Status is what a client that sent such a request is answered. (For a response that was refused, answer 502.)
func (e Error) Status() int { return e.entry().status }

// Reason is a short name without spaces for access logs and statistics.
func (e Error) Reason() string { return e.entry().reason }

// Error is the explanation in words.
func (e Error) Error() string { return e.entry().text }

func (e Error) entry() errorText {
	if int(e) >= len(errorTexts) {
		return errorText{400, "http1.unknown", "unknown reason"}
	}
	return errorTexts[e]
}
