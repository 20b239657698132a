package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/sync/errgroup"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	maxResponse = 64 << 20 // a first answer with everything; gRPC's default of 4 MiB is too little
	maxUnsent   = 10_000   // requests to a server that does not read
	smallBuffer = 8 << 10  // there is one connection, and it is mostly idle
)

// dial prepares the connection to the server; it is made when a stream is opened.
func dial(control string) (*grpc.ClientConn, error) {
	network, address, wrong := ParseControl(control)
	if wrong != nil {
		return nil, fmt.Errorf("dial control plane: %w", wrong)
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}),
		grpc.WithAuthority("control"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse)),
		grpc.WithReadBufferSize(smallBuffer), grpc.WithWriteBufferSize(smallBuffer),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithNoProxy(),
		// A peer that is gone without a word is noticed; a server that finds this too often says so, and gRPC doubles it.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstRetry, Multiplier: 2, Jitter: 0.5, MaxDelay: lastRetry},
			MinConnectTimeout: lastRetry,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("dial control plane %s: %w", control, err)
	}
	return conn, nil
}

// outbox holds requests for the one goroutine that sends them, so that reading never waits for a write.
type outbox struct {
	mu    sync.Mutex
	queue []*discoveryv3.DeltaDiscoveryRequest // guarded by mu
	ready chan struct{}                        // one slot
}

func (o *outbox) put(m *discoveryv3.DeltaDiscoveryRequest) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) >= maxUnsent {
		return errors.New("the server does not read")
	}
	o.queue = append(o.queue, m)
	select {
	case o.ready <- struct{}{}:
	default:
	}
	return nil
}

func (o *outbox) send(ctx context.Context, stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient) error {
	for {
		select {
		case <-ctx.Done():
			return stream.CloseSend()
		case <-o.ready:
		}
		o.mu.Lock()
		batch := o.queue
		o.queue = nil
		o.mu.Unlock()
		for _, m := range batch {
			if err := stream.Send(m); err != nil {
				return err // io.EOF: the reader has the reason
			}
		}
	}
}

// session is one stream: its subscriptions and what they bring. It reports whether the stream was of use.
func (c *Client) session(ctx context.Context, conn *grpc.ClientConn) (useful bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return false, errors.New(status.Convert(err).Message())
	}
	node, err := c.options.Bootstrap.Node.proto(c.options.Version)
	if err != nil {
		return false, err
	}
	c.setConnected(time.Now())
	began := time.Now()
	s := &session{client: c, node: node, out: &outbox{ready: make(chan struct{}, 1)}, opened: map[kind]bool{}}
	responses := make(chan *discoveryv3.DeltaDiscoveryResponse, 16)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.out.send(ctx, stream) })
	// Within the session, so that nothing else makes connections while follow resets their back-off: gRPC races there.
	g.Go(func() error { c.checkForServer(ctx, conn); return nil })
	var lost error // the reader's word on why the stream ended counts most
	g.Go(func() error {
		for {
			m, err := stream.Recv()
			if err != nil {
				lost = err
				return err
			}
			select {
			case responses <- m:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	var ended error // why we ended it ourselves; the group may hear first of one that the end made fail
	g.Go(func() error {
		ended = s.run(ctx, responses)
		cancel()
		return ended
	})
	err = g.Wait()
	if errors.Is(ended, errProtocol) {
		err = ended
	} else if lost != nil {
		err = lost
		if !errors.Is(lost, io.EOF) {
			err = errors.New(status.Convert(lost).Message()) // without gRPC's words around it
		}
	}
	return s.answered || time.Since(began) > lastRetry, err
}

// errProtocol marks ends of a stream that this side decided on.
var errProtocol = errors.New("the server breaks the protocol")

// session is the state of one stream. It belongs to the goroutine that runs it.
type session struct {
	client   *Client
	node     *corev3.Node // sent once
	out      *outbox
	opened   map[kind]bool // kinds with a first request on this stream
	sent     [kinds]map[string]bool
	answered bool
}

// run subscribes, and applies responses until ctx ends.
func (s *session) run(ctx context.Context, responses <-chan *discoveryv3.DeltaDiscoveryResponse) error {
	c := s.client
	if err := s.open(); err != nil {
		return err
	}
	defer c.closed()
	var late <-chan time.Time // set while something is waited for
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-late:
		case <-c.wants:
			if err := s.want(); err != nil {
				return err
			}
		case m := <-responses:
			if err := s.respond(m); err != nil {
				return err
			}
			if len(responses) > 0 {
				continue // publish once for all that is there
			}
		}
		late = nil
		if c.publish() {
			late = time.After(time.Second)
		}
	}
}

// open sends the first request of every kind: what is asked for, and what is already here.
func (s *session) open() error {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store.opened = time.Now()
	for k := range kinds {
		if k == clusters && c.options.Bootstrap.noCDS || k == listeners && c.options.Bootstrap.noLDS {
			continue
		}
		if err := s.subscribe(k); err != nil {
			return err
		}
	}
	return nil
}

// subscribe tells the server of names that are new or no longer wanted. The client's mu is held.
func (s *session) subscribe(k kind) error {
	store := s.client.store
	names := store.names(k)
	if !s.opened[k] && !k.wildcard() && len(names) == 0 {
		return nil // an empty first request would ask for everything
	}
	m := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.typeURL()}
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
		if !s.sent[k][name] {
			m.ResourceNamesSubscribe = append(m.ResourceNamesSubscribe, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.sent[k])) {
		if !wanted[name] {
			m.ResourceNamesUnsubscribe = append(m.ResourceNamesUnsubscribe, name)
		}
	}
	s.sent[k] = wanted
	if !s.opened[k] {
		s.opened[k] = true
		if k.wildcard() && len(names) > 0 {
			m.ResourceNamesSubscribe = append([]string{"*"}, m.ResourceNamesSubscribe...) // names alone would be all there is
		}
		m.InitialResourceVersions = store.versions(k)
	} else if len(m.ResourceNamesSubscribe)+len(m.ResourceNamesUnsubscribe) == 0 {
		return nil
	}
	return s.put(m)
}

func (s *session) put(m *discoveryv3.DeltaDiscoveryRequest) error {
	m.Node, s.node = s.node, nil
	if err := s.out.put(m); err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	return nil
}

// respond applies a response, answers it and adapts the subscriptions to it.
func (s *session) respond(m *discoveryv3.DeltaDiscoveryResponse) error {
	k, ok := kindOf(m.GetTypeUrl())
	if !ok || !s.opened[k] {
		return fmt.Errorf("%w: got a response of type %q, want one that was asked for", errProtocol, clip(m.GetTypeUrl()))
	}
	c := s.client
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	refused := c.store.apply(k, m, now)
	if !s.answered {
		s.answered = true
		c.setAnswered(m.GetControlPlane().GetIdentifier())
	}
	c.status.count(k, refused, now)
	ack := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: k.typeURL(), ResponseNonce: m.GetNonce()}
	if refused != nil {
		c.log.Warn("xds resources refused, their old values stay", "type", k.String(), "version", m.GetSystemVersionInfo(), "reason", refused)
		ack.ErrorDetail = &statuspb.Status{Code: int32(codes.InvalidArgument), Message: refused.Error()}
	}
	if err := s.put(ack); err != nil {
		return err
	}
	return s.follow()
}

// follow adapts the subscriptions to what is referred to now. The client's mu is held.
func (s *session) follow() error {
	for k := range kinds {
		if k.wildcard() && !s.opened[k] {
			continue
		}
		if err := s.subscribe(k); err != nil {
			return err
		}
	}
	return nil
}

// want asks for names that were added.
func (s *session) want() error {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.follow()
}

// publish hands the present state on, if it is another, and reports whether time alone may change it again.
func (c *Client) publish() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if next, changed := c.store.build(time.Now()); changed {
		c.value.Set(next)
		select {
		case c.dirty <- struct{}{}:
		default:
		}
	}
	return c.store.pending()
}

// closed notes that there is no stream.
func (c *Client) closed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store.opened = time.Time{}
}
