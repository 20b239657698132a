package accesslog

import (
	"fmt"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/message"
)

func TestCallsOfGRPC(t *testing.T) {
	const format = "%GRPC_STATUS%|%GRPC_STATUS(CAMEL_STRING)%|%GRPC_STATUS(SNAKE_STRING)%|%GRPC_STATUS(NUMBER)%|%GRPC_STATUS_NUMBER%"
	for _, c := range []struct {
		name   string
		record Record
		want   string
		ended  int // what filters see
	}{
		{"told", Record{GRPC: true, Status: 200, GRPCTold: true, GRPCStatus: 13}, "Internal|Internal|INTERNAL|13|13", 13},
		{"fine", Record{GRPC: true, Status: 200, GRPCTold: true}, "OK|OK|OK|0|0", 0},
		{"cancelled", Record{GRPC: true, Status: 200, GRPCTold: true, GRPCStatus: 1}, "Canceled|Canceled|CANCELLED|1|1", 1},
		{"an own one", Record{GRPC: true, Status: 200, GRPCTold: true, GRPCStatus: 17}, "17|17|17|17|17", -1},
		{"nonsense", Record{GRPC: true, Status: 200, GRPCTold: true, GRPCStatus: message.GRPCInvalid}, "-1|-1|-1|-1|-1", -1},
		{"not told", Record{GRPC: true, Status: 200}, "Unknown|Unknown|UNKNOWN|2|2", 2},
		{"not told, another status", Record{GRPC: true, Status: 503}, "Unavailable|Unavailable|UNAVAILABLE|14|14", 14},
		{"no response", Record{GRPC: true}, "-|-|-|-|-", 2},
		{"no call", Record{Status: 404}, "-|-|-|-|-", 12},
		{"no call, told", Record{Status: 200, GRPCTold: true, GRPCStatus: 5}, "-|-|-|-|-", 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			var compiler Compiler
			p, err := compiler.Text(format, false)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(p.Append(nil, &c.record)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			for code := range 17 {
				for _, op := range []config.LogComparison{config.LogEqual, config.LogNotEqual} {
					f, err := compiler.Filter(&config.LogFilter{Kind: config.LogGRPC, Op: op, Value: 1 << code})
					if err != nil {
						t.Fatal(err)
					}
					if got, want := f.Takes(&c.record), (code == c.ended) == (op == config.LogEqual); got != want {
						t.Errorf("a filter for %d (%v): %v, want %v", code, op, got, want)
					}
				}
			}
			p, _ = compiler.JSON(map[string]any{"a": "%GRPC_STATUS_NUMBER%", "b": "%GRPC_STATUS(NUMBER)%"}, false)
			want := fmt.Sprintf("{%q:%d,%q:%[2]d}", "a", c.record.GRPCStatus, "b")
			if got := string(p.Append(nil, &c.record)); c.record.GRPC && c.record.GRPCTold && got != want+"\n" {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestTrailers(t *testing.T) {
	var c Compiler
	p, err := c.Text("%TRAILER(X-T)%|%TRAILER(none?x-t):2%|%TRAILER(none)%|%TRAILER(host)%|%TRAILER(:status)%|%RESP(X-T)%", false)
	if err != nil {
		t.Fatal(err)
	}
	r := &Record{Status: 200}
	r.Trailer.Collect(&c.Names.Trailer, head("x-t", "abc", "X-T", "d"), nil)
	if got := string(p.Append(nil, r)); got != "abc|ab|-|-|-|-" {
		t.Errorf("got %q", got)
	}
	if n := testing.AllocsPerRun(10, func() { r.Trailer.Collect(&c.Names.Trailer, nothing, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got := string(p.Append(nil, r)); got != "-|-|-|-|-|-" {
		t.Errorf("of no trailers: %q", got)
	}
}

var nothing = new(message.Head)
