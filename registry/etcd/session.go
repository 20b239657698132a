package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/hostmesh/hostmesh/internal/tlsfile"
	"github.com/hostmesh/hostmesh/registry"
)

const (
	// maxAnswer bounds one message of etcd. A member takes values of up to 1.5 MiB unless it is told otherwise.
	maxAnswer = 64 << 20
	// maxFragments bounds one answer of a watch that comes in several messages: what changed
	// in up to a thousand revisions. Who has more to say is listed again, by pages.
	maxFragments = 256 << 20
	// stagger is the start that an endpoint has before the next one is tried beside it.
	stagger = 200 * time.Millisecond
)

// session is a connection to one member that has shown that it has a leader and lets us read.
type session struct {
	cfg      Config
	target   target
	root     string // of the keys
	password string
	client   *clientv3.Client
	cancel   context.CancelFunc // of the context that client lives in
}

// connect returns a session with the first endpoint that works. All are tried, each a moment after the one before, so
// that one that hangs delays the next but little.
func (r *Registry) connect(ctx context.Context) (*session, error) {
	config, err := tlsfile.Files{CA: r.cfg.CAFile, Cert: r.cfg.CertFile, Key: r.cfg.KeyFile, Server: r.cfg.ServerName}.Config()
	if err != nil {
		return nil, err
	}
	password, err := readPassword(r.cfg.PasswordFile)
	if err != nil {
		return nil, err
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		winner *session // guarded by mu
		errs   = make([]error, len(r.targets))
	)
	racing, end := context.WithCancel(ctx)
	defer end()
	for i, t := range r.targets {
		wg.Go(func() {
			s, err := r.try(ctx, racing, t, time.Duration(i)*stagger, config, password)
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w", t.host, r.explain(err, password))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if winner != nil {
				s.close()
				return
			}
			winner = s
			end() // of the race, for the others
		})
	}
	wg.Wait()
	if winner != nil {
		return winner, nil
	}
	all := errs[0]
	for _, err := range errs[1:] {
		all = fmt.Errorf("%w; %w", all, err)
	}
	return nil, all
}

// try opens a session after some time, unless racing ends before. The session lives in ctx.
func (r *Registry) try(ctx, racing context.Context, t target, after time.Duration, config *tls.Config, password string) (*session, error) {
	if err := sleep(racing, after); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(racing, cancel)()
	s, err := r.open(ctx, t, config, password)
	if err != nil {
		cancel()
		return nil, err
	}
	s.cancel = cancel
	return s, nil
}

// open connects to one endpoint, in ctx, and asks it once.
func (r *Registry) open(ctx context.Context, t target, config *tls.Config, password string) (*session, error) {
	endpoint := "http://" + t.host
	if t.tls {
		endpoint = "https://" + t.host
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, DialTimeout: r.cfg.DialTimeout, Context: ctx,
		Username: r.cfg.Username, Password: password, TLS: config,
		// The client's own log would repeat, on stderr, what Watch returns.
		Logger:             zap.NewNop(),
		MaxCallRecvMsgSize: maxAnswer,
		// What fails is told soon: Watch is called again, and has more than one endpoint to try. It takes a second time
		// to get a new token.
		MaxUnaryRetries: 2,
		DialOptions:     r.cfg.dialOptions(),
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("authenticate: %w", noAnswer(r.cfg.DialTimeout))
	}
	if err != nil {
		return nil, err
	}
	s := &session{cfg: r.cfg, target: t, root: r.cfg.root(), password: password, client: client}
	if _, err := s.check(ctx, r.cfg.DialTimeout); err != nil {
		_ = client.Close()
		return nil, err
	}
	return s, nil
}

func (cfg Config) dialOptions() []grpc.DialOption {
	options := []grpc.DialOption{
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: cfg.DialTimeout,
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		}),
		grpc.WithChainUnaryInterceptor(failFast),
		grpc.WithChainStreamInterceptor(boundFragments),
	}
	if cfg.ServerName != "" {
		// gRPC verifies the certificate for this name, whatever the configuration of TLS says.
		options = append(options, grpc.WithAuthority(cfg.ServerName))
	}
	return options
}

// failFast has a call tell why there is no connection. etcd's client has calls wait for one, and tell that they waited.
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return call(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// boundFragments ends a watch whose server goes on and on with one answer: etcd's client puts the fragments together,
// however many there are.
func boundFragments(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := stream(ctx, desc, cc, method, opts...)
	return &fragments{ClientStream: s}, err
}

// fragments is a watch. One goroutine receives from it.
type fragments struct {
	grpc.ClientStream
	size int // of the answer that is not whole yet
}

// RecvMsg implements grpc.ClientStream.
func (f *fragments) RecvMsg(m any) error {
	if err := f.ClientStream.RecvMsg(m); err != nil {
		return err
	}
	answer, ok := m.(*etcdserverpb.WatchResponse)
	if !ok || !answer.Fragment {
		f.size = 0
		return nil
	}
	if f.size += proto.Size(answer); f.size > maxFragments {
		return status.Errorf(codes.ResourceExhausted, "got an answer of more than %d MiB in fragments", maxFragments>>20)
	}
	return nil
}

func (s *session) close() {
	_ = s.client.Close()
	s.cancel()
}

// noAnswer is the cause of a question that nobody answered in time.
func noAnswer(within time.Duration) error { return fmt.Errorf("no answer within %v", within) }

// check asks the member for its revision: all that the cluster had committed when it was asked. It fails without a
// leader, without a quorum and without the permission to read the whole range. It costs the member next to nothing: the
// range stands in the branch that is not taken, where etcd checks the permission but reads nothing.
func (s *session) check(ctx context.Context, timeout time.Duration) (revision int64, err error) {
	ctx, cancel := context.WithTimeoutCause(clientv3.WithRequireLeader(ctx), timeout, noAnswer(timeout))
	defer cancel()
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(s.root), ">", -1)).
		Then(clientv3.OpGet(s.root, clientv3.WithKeysOnly())).
		Else(clientv3.OpGet(s.root, clientv3.WithPrefix(), clientv3.WithKeysOnly())).
		Commit()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return 0, fmt.Errorf("ask for the revision: %w", err)
	}
	return resp.Header.Revision, nil
}

const maxPassword = 4 << 10

// readPassword returns what the file holds, without the end of the line; "" without a file. No error shows it.
func readPassword(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	password := strings.TrimRight(string(data), "\r\n")
	if password == "" || len(password) > maxPassword || strings.ContainsAny(password, "\r\n") {
		return "", fmt.Errorf("read password: %s holds something else, want one line", path)
	}
	return password, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// asPermission marks an error as one of a registry that refuses us.
func asPermission(err error, todo string) error {
	return fmt.Errorf("%w: %w: %s", registry.ErrPermission, err, todo)
}
