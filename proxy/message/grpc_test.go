package message

import (
	"math"
	"net/url"
	"testing"
	"time"
)

func TestIsGRPC(t *testing.T) {
	for text, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc+": true,
		"": false, "application/grp": false, "application/grpc-web": false, "application/grpc-web+proto": false, "application/grpc; a=b": false,
		"Application/Grpc": false, "application/json": false,
	} {
		if got := IsGRPC([]byte(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestStatusesOfGRPC(t *testing.T) {
	for text, want := range map[string]int{"0": 0, "14": 14, "99": 99, "": -1, "-1": -1, "a": -1, "1 ": -1, "99999999999": -1, "99999999999999999999": -1} {
		if got := ParseGRPC([]byte(text)); got != want {
			t.Errorf("ParseGRPC(%q) = %d, want %d", text, got, want)
		}
	}
	for code, want := range map[int]int{-1: 500, 0: 200, 1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 13: 500, 14: 503, 15: 500, 16: 401, 17: 500} {
		if got := OfGRPC(code); got != want {
			t.Errorf("OfGRPC(%d) = %d, want %d", code, got, want)
		}
	}
	for status, want := range map[int]int{200: 2, 307: 2, 400: 13, 401: 16, 403: 7, 404: 12, 408: 2, 429: 14, 500: 2, 502: 14, 503: 14, 504: 14} {
		if got := GRPCOf(status); got != want {
			t.Errorf("GRPCOf(%d) = %d, want %d", status, got, want)
		}
	}
}

func TestAppendGRPCText(t *testing.T) {
	all := make([]byte, 256)
	for c := range all {
		all[c] = byte(c)
	}
	got := AppendGRPCText([]byte("x"), string(all))
	if back, err := url.PathUnescape(string(got)); err != nil || back != "x"+string(all) || !ValidValue(got) {
		t.Errorf("%q becomes %q, %v", got, back, err)
	}
	if got := AppendGRPCText(nil, "no %/ü~"); string(got) != "no %25/%C3%BC~" {
		t.Errorf("%q", got)
	}
	if n := testing.AllocsPerRun(10, func() { got = AppendGRPCText(got[:0], "a%b") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestGRPCTimeouts are read and written as the stock Envoy 1.40 does.
func TestGRPCTimeouts(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0m": 0, "400m": 400 * time.Millisecond, "3S": 3 * time.Second, "2M": 2 * time.Minute, "1H": time.Hour, "1500u": 2 * time.Millisecond,
		"1n": time.Millisecond, "2000000n": 2 * time.Millisecond, "99999999S": 99_999_999 * time.Second, "99999999H": math.MaxInt64 / time.Hour * time.Hour,
		"": -1, "m": -1, "1": -1, "1s": -1, "-1S": -1, "123456789S": -1, "1 S": -1, "xx": -1, "000000001S": -1, "1.5S": -1,
	} {
		got, ok := ParseGRPCTimeout([]byte(text))
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("ParseGRPCTimeout(%q) = %v, want %v", text, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0m", 400 * time.Millisecond: "400m", 1500 * time.Microsecond: "1m", 99_999_999 * time.Millisecond: "99999999m",
		100_000_000 * time.Millisecond: "100000S", 99_999_999 * time.Second: "99999999S", 99_999_999 * time.Minute: "99999999M", math.MaxInt64: "2562047H",
	} {
		if got := string(AppendGRPCTimeout(nil, d)); got != want {
			t.Errorf("AppendGRPCTimeout(%v) = %s, want %s", d, got, want)
		}
	}
}
