package xds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/hostmesh/hostmesh/internal/seal"
)

const (
	sealedFile    = "proxy-config.sealed"
	sealedKind    = "proxy-config"
	sealedVersion = 1
	sealSettle    = time.Second     // changes rarely come alone
	sealEvery     = 5 * time.Second // at most
)

func (c *Client) sealedPath() string { return filepath.Join(c.options.StateDir, sealedFile) }

// load takes the sealed state over, if there is any. What is wrong with it is reported and it is left alone.
func (c *Client) load(now time.Time) {
	payload, err := seal.Read(c.sealedPath(), sealedKind, sealedVersion)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = c.unseal(payload, now)
	}
	if err != nil {
		c.status.sealedError = err.Error()
		c.log.Error("sealed configuration is not used", "err", err)
		return
	}
	if info, err := os.Stat(c.sealedPath()); err == nil {
		c.status.sealed = info.ModTime()
	}
	c.status.source = "sealed"
	c.log.Info("serving the sealed configuration until the control plane answers", "version", c.store.version, "of", c.status.sealed)
}

// unseal reads a payload: the node that it was made for, then a response for each kind, in the order of kinds.
func (c *Client) unseal(payload []byte, now time.Time) error {
	in := bytes.NewReader(payload)
	limit := protodelim.UnmarshalOptions{MaxSize: int64(len(payload))}
	node := new(corev3.Node)
	if err := limit.UnmarshalFrom(in, node); err != nil {
		return fmt.Errorf("read sealed node: %w", err)
	}
	if want := c.options.Bootstrap.Node.ID; node.GetId() != want {
		return fmt.Errorf("read sealed configuration: got that of node %q, want that of %q", clip(node.GetId()), want)
	}
	var all [kinds]*discoveryv3.DeltaDiscoveryResponse
	for k := range kinds {
		all[k] = new(discoveryv3.DeltaDiscoveryResponse)
		if err := limit.UnmarshalFrom(in, all[k]); err != nil {
			return fmt.Errorf("read sealed %s: %w", k, err)
		}
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.New("read sealed configuration: got more than it should hold")
	}
	// Listeners make the names of route tables known, clusters those of assignments: so they go first.
	for _, k := range []kind{clusters, endpoints, listeners, routeTables} {
		if err := c.store.apply(k, all[k], now); err != nil {
			c.log.Warn("sealed resources refused", "type", k.String(), "reason", err) // by this version; the others serve
		}
	}
	c.store.settle()
	c.store.build(now)
	return nil
}

// payload is what is sealed, or false if the state is not whole: then what was sealed before is better.
func (c *Client) payload() ([]byte, bool, error) {
	var all [kinds]*discoveryv3.DeltaDiscoveryResponse
	c.mu.Lock()
	whole := c.store.whole(time.Now())
	for k := range kinds {
		t := c.store.types[k]
		all[k] = &discoveryv3.DeltaDiscoveryResponse{TypeUrl: k.typeURL(), SystemVersionInfo: t.version}
		for name, res := range t.have {
			all[k].Resources = append(all[k].Resources, &discoveryv3.Resource{
				Name: name, Version: res.version, Resource: &anypb.Any{TypeUrl: k.typeURL(), Value: res.raw},
			})
		}
	}
	c.mu.Unlock()
	if !whole {
		return nil, false, nil
	}
	var out bytes.Buffer
	if _, err := protodelim.MarshalTo(&out, &corev3.Node{Id: c.options.Bootstrap.Node.ID}); err != nil {
		return nil, false, fmt.Errorf("encode node to seal: %w", err)
	}
	for k := range kinds {
		if _, err := protodelim.MarshalTo(&out, all[k]); err != nil {
			return nil, false, fmt.Errorf("encode %s to seal: %w", k, err)
		}
	}
	return out.Bytes(), true, nil
}

// keepSealed writes the state after changes, at most every five seconds, and once more at the end. A disk that cannot
// be written to is reported and does not stop anything.
func (c *Client) keepSealed(ctx context.Context) error {
	for unsealed := false; ; {
		select {
		case <-ctx.Done():
			select {
			case <-c.dirty:
				unsealed = true
			default:
			}
			if unsealed {
				c.seal()
			}
			return nil
		case <-c.dirty:
			unsealed = true
		}
		for wait := sealSettle; unsealed && ctx.Err() == nil; wait = sealEvery {
			pause := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-pause.C:
				select {
				case <-c.dirty: // it is part of what is written now
				default:
				}
				unsealed = !c.seal()
			}
			pause.Stop()
		}
		if !unsealed {
			sleep(ctx, sealEvery-sealSettle)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// seal writes the state, if it is whole, and reports whether it did.
func (c *Client) seal() bool {
	payload, whole, err := c.payload()
	if err == nil && !whole {
		return false
	}
	if err == nil {
		err = seal.Write(c.sealedPath(), sealedKind, sealedVersion, payload)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		if c.status.sealedError != err.Error() {
			c.log.Error("configuration could not be sealed", "err", err)
		}
		c.status.sealedError = err.Error()
		return false
	}
	c.status.sealed, c.status.sealedError = time.Now(), ""
	return true
}
