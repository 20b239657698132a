package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/registry"
)

// client asks Consul. It judges what every answer must fulfil; what is in it is for others.
type client struct {
	raw       *api.Raw
	transport *transport
	stale     bool
	maxStale  time.Duration
}

// query is one question. With index 0 it is answered at once, from the leader and after all that it has committed.
// With another index it is answered when there is something newer or after wait, by whichever server is asked.
type query struct {
	path       string
	datacenter string
	filter     string
	index      uint64
	wait       time.Duration
}

// answer is what Consul said.
type answer struct {
	body       json.RawMessage
	index      uint64 // at least 1
	streamed   bool   // from the agent's materialised view, which knows neither leader nor ACL filtering
	filtered   bool   // ACLs hide part of it
	denyPolicy bool   // what no token allows is denied
}

func newClient(cfg Config, target target) (*client, error) {
	var token *tokenFile
	if cfg.TokenFile != "" {
		token = &tokenFile{path: cfg.TokenFile}
	}
	transport, err := newTransport(cfg, target, token)
	if err != nil {
		return nil, err
	}
	c, err := api.NewClient(&api.Config{
		Scheme: target.scheme, Address: target.host,
		// The transport replaces the token in each request; naming one here keeps api from looking for one elsewhere.
		Token: "set by the transport",
		HttpClient: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	})
	if err != nil {
		return nil, err
	}
	return &client{raw: c.Raw(), transport: transport, stale: *cfg.Stale, maxStale: cfg.MaxStale}, nil
}

// grace is added to what Consul may take for an answer before we give the question up.
const grace = 6 * time.Second

// get asks and waits for the answer.
func (c *client) get(ctx context.Context, q query) (answer, error) {
	options := &api.QueryOptions{Datacenter: q.datacenter, Filter: q.filter, RequireConsistent: q.index == 0}
	timeout := grace
	if q.index > 0 {
		// The jitter keeps questions that began together from coming back together for ever; Consul adds its own.
		wait := q.wait - rand.N(q.wait/8+1)
		options.AllowStale, options.WaitIndex, options.WaitTime = c.stale, q.index, wait
		timeout += wait + wait/16
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout.Round(time.Second)))
	defer cancel()
	var body json.RawMessage
	meta, err := c.raw.Query(q.path, &body, options.WithContext(ctx))
	if err != nil {
		return answer{}, fmt.Errorf("get %s: %w", q.where(), explain(ctx, err))
	}
	a := answer{
		body: body, index: max(meta.LastIndex, 1), filtered: meta.ResultsFilteredByACLs,
		streamed: meta.QueryBackend == api.QueryBackendStreaming, denyPolicy: meta.DefaultACLPolicy == "deny",
	}
	switch {
	case a.streamed:
		return a, nil
	case !meta.KnownLeader:
		return answer{}, fmt.Errorf("get %s: the server knows no leader", q.where())
	case meta.LastContact > c.maxStale:
		return answer{}, fmt.Errorf("get %s: the server heard of its leader %s ago, want at most %s", q.where(), meta.LastContact, c.maxStale)
	}
	return a, nil
}

// where names the question in errors.
func (q query) where() string {
	if q.datacenter != "" {
		return fmt.Sprintf("%q in %s", q.path, q.datacenter)
	}
	return fmt.Sprintf("%q", q.path)
}

// explain makes a refusal recognisable and an answer's text harmless in a log.
func explain(ctx context.Context, err error) error {
	var status api.StatusError
	if errors.As(err, &status) {
		if status.Code == http.StatusForbidden || status.Code == http.StatusUnauthorized {
			return fmt.Errorf("%w: status %d: %.200q; look at the token in tokenFile and at what its policies allow", registry.ErrPermission, status.Code, status.Body)
		}
		if status.Code == http.StatusInternalServerError && strings.Contains(status.Body, "stream reset requested") {
			return errReset
		}
		return fmt.Errorf("status %d: %.200q", status.Code, status.Body)
	}
	var none noConnection
	if errors.As(err, &none) {
		return none
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var failed *url.Error // it repeats what was asked
	if errors.As(err, &failed) {
		return failed.Err
	}
	return err
}

// errReset is Consul's word that it has ended its own subscription to what was asked for, as it does when ACLs change.
var errReset = errors.New("consul has ended its subscription")

// access is one right that may be asked for.
type access struct {
	Resource string
	Access   string
	Segment  string
	Allow    bool `json:",omitempty"`
}

// maxAccess is how many rights Consul judges in one request.
const maxAccess = 64

// mayRead asks Consul whether we may read all of these: the one way to know it for the anonymous token, from which
// Consul hides that answers were filtered. The endpoint is the one that Consul's own UI uses.
func (c *client) mayRead(ctx context.Context, datacenter string, wanted []access) error {
	for part := range slices.Chunk(wanted, maxAccess) {
		if err := c.mayReadPart(ctx, datacenter, part); err != nil {
			return fmt.Errorf("ask for permissions: %w", err)
		}
	}
	return nil
}

func (c *client) mayReadPart(ctx context.Context, datacenter string, wanted []access) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	body, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	place := url.URL{Scheme: c.transport.scheme, Host: c.transport.host, Path: "/v1/internal/acl/authorize"}
	if datacenter != "" {
		place.RawQuery = url.Values{"dc": {datacenter}}.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, place.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return explain(ctx, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return explain(ctx, err)
	}
	if resp.StatusCode != http.StatusOK {
		return explain(ctx, api.StatusError{Code: resp.StatusCode, Body: string(text)})
	}
	var got []access
	if err := json.Unmarshal(text, &got); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	if len(got) != len(wanted) {
		return fmt.Errorf("%d answers, want %d", len(got), len(wanted))
	}
	for i, right := range got {
		if right.Resource != wanted[i].Resource || !right.Allow {
			return fmt.Errorf("%w: without a token, %s:%s is denied for %q", registry.ErrPermission,
				wanted[i].Resource, wanted[i].Access, wanted[i].Segment)
		}
	}
	return nil
}
