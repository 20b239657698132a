package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/url"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// mostMessage bounds an answer of gRPC's health service, which has a few bytes.
const mostMessage = 4 << 10

// speak begins HTTP/2 on a connection, once.
func (l *link) speak(ctx context.Context) error {
	if l.h2 != nil {
		return nil
	}
	own := func(context.Context, string, string) (net.Conn, error) { return l.conn, nil }
	t := &http.Transport{DialContext: own, DialTLSContext: own, Protocols: new(http.Protocols), DisableCompression: true, MaxResponseHeaderBytes: mostHead}
	t.Protocols.SetHTTP2(true) // by ALPN
	t.Protocols.SetUnencryptedHTTP2(true)
	var err error
	l.h2, err = t.NewClientConn(ctx, l.scheme(), "endpoint:0") // nobody dials it, and the path of a unix socket is not taken
	return err
}

// goesOn reports whether another check may come over the connection.
func (l *link) goesOn() bool { return l.h2.Err() == nil && l.h2.Available() > 0 }

// requestHTTP2 sends a request in a stream. An answer ends the stream: nothing of it can be taken for the next.
func requestHTTP2(ctx context.Context, cluster string, c *config.HTTPCheck, l *link) (o Outcome, reusable, answered bool) {
	resp, o, answered := ask(ctx, l, c.Method, authority(c.Host, cluster), c.Path, c.Headers, nil)
	if resp == nil {
		return o, false, answered
	}
	defer resp.Body.Close()
	o = statusOutcome(c, resp.StatusCode)
	if o == Passed && resp.Header.Get("X-Envoy-Degraded") != "" {
		o = PassedDegraded
	}
	body := &io.LimitedReader{R: resp.Body, N: mostBody}
	_, err := io.Copy(io.Discard, body)
	return o, err == nil && body.N > 0 && l.goesOn(), true
}

// requestGRPC asks gRPC's health service (grpc.health.v1). All but SERVING is a failure at once, as in Envoy.
func requestGRPC(ctx context.Context, cluster string, c *config.GRPCCheck, l *link) (o Outcome, reusable, answered bool) {
	question, err := proto.Marshal(&healthpb.HealthCheckRequest{Service: c.Service})
	if err != nil {
		return Unknown, false, false // a name that is no UTF-8: proxy/xds has refused it
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(question)))
	resp, o, answered := ask(ctx, l, http.MethodPost, authority(c.Authority, cluster), healthpb.Health_Check_FullMethodName, c.Metadata, append(frame, question...))
	if resp == nil {
		return o, false, answered
	}
	defer resp.Body.Close()
	body := &io.LimitedReader{R: resp.Body, N: mostMessage + 1}
	answer, err := io.ReadAll(body)
	switch {
	case err != nil:
		return streamOutcome(ctx, err), false, true
	case body.N == 0:
		return Rejected, false, true
	}
	o = Rejected
	if resp.StatusCode == http.StatusOK && grpcStatus(resp) == "0" && serves(answer) {
		o = Passed
	}
	return o, l.goesOn(), true
}

// grpcStatus is in the trailers, or in the head when there is nothing else.
func grpcStatus(resp *http.Response) string {
	if s := resp.Trailer.Get("Grpc-Status"); s != "" {
		return s
	}
	return resp.Header.Get("Grpc-Status")
}

// serves reads one message, which is not compressed: nobody asked for that.
func serves(frame []byte) bool {
	const head = 5
	if len(frame) < head || frame[0] != 0 || binary.BigEndian.Uint32(frame[1:]) != uint32(len(frame)-head) {
		return false
	}
	m := new(healthpb.HealthCheckResponse)
	return proto.Unmarshal(frame[head:], m) == nil && m.GetStatus() == healthpb.HealthCheckResponse_SERVING
}

func authority(own, cluster string) string {
	if own != "" {
		return own
	}
	return cluster
}

// ask sends a request and returns its answer, or how it failed and whether the endpoint has answered at all.
func ask(ctx context.Context, l *link, method, host, path string, fields []config.CheckHeader, body []byte) (*http.Response, Outcome, bool) {
	at, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, Unknown, false // proxy/xds has refused it
	}
	at.Scheme, at.Host = l.scheme(), host
	req := &http.Request{Method: method, URL: at, Host: host, Header: http.Header{"User-Agent": {"Envoy/HC"}}}
	if body != nil {
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		req.Header["Content-Type"], req.Header["Te"] = []string{"application/grpc"}, []string{"trailers"}
	}
	for _, f := range fields {
		req.Header.Add(f.Name, f.Value)
	}
	if err := l.speak(ctx); err != nil {
		return nil, streamOutcome(ctx, err), false
	}
	resp, err := l.h2.RoundTrip(req.WithContext(ctx))
	switch {
	case err != nil:
		return nil, streamOutcome(ctx, err), l.goesOn() // if so, the stream alone was reset
	case resp.ProtoMajor != 2:
		resp.Body.Close()
		return nil, Refused, true
	}
	return resp, Passed, true
}

// streamOutcome tells an answer that is late from one that will not come.
func streamOutcome(ctx context.Context, err error) Outcome {
	if ctx.Err() != nil {
		return Late
	}
	return ioOutcome(err)
}
