package http1

import "bytes"

// Underscored is the number of fields whose names have an underscore and that would be passed on. If drop is set they are not.
func (r *Request) Underscored(drop bool) int {
	count := 0
	for i := range r.fields {
		f := &r.fields[i]
		if bytes.IndexByte(r.buf[f.line:f.nameEnd], '_') < 0 {
			continue
		}
		count++
		f.Hop = f.Hop || drop
	}
	return count
}
