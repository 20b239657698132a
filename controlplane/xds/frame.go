package xds

import (
	"fmt"
	"strconv"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec for everything that is no frame
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/hostmesh/hostmesh/controlplane/compile"
)

// Numbers of fields that a DiscoveryResponse and a DeltaDiscoveryResponse have in common, and one of the latter.
const (
	fieldVersion = 1 // version_info, system_version_info
	fieldTypeURL = 4
	fieldNonce   = 5
	fieldRemoved = 6 // removed_resources; delta only
)

// frame is one response, ready for the wire: a small head of its own and resources that it shares with every other
// client that is sent them.
type frame struct {
	head   []byte
	shared mem.BufferSlice
}

// newFrame writes the head of a response. The order of fields on the wire is free, so the resources may follow it.
func newFrame(t compile.Type, number, nonce uint64, removed []string, resources mem.BufferSlice) *frame {
	size := 64 + len(t.URL())
	for _, name := range removed {
		size += len(name) + 4
	}
	head := make([]byte, 0, size)
	head = protowire.AppendTag(head, fieldVersion, protowire.BytesType)
	head = protowire.AppendString(head, strconv.FormatUint(number, 10))
	head = protowire.AppendTag(head, fieldTypeURL, protowire.BytesType)
	head = protowire.AppendString(head, t.URL())
	head = protowire.AppendTag(head, fieldNonce, protowire.BytesType)
	head = protowire.AppendString(head, strconv.FormatUint(nonce, 10))
	for _, name := range removed {
		head = protowire.AppendTag(head, fieldRemoved, protowire.BytesType)
		head = protowire.AppendString(head, name)
	}
	return &frame{head: head, shared: resources}
}

// buffers returns the frame as gRPC sends it. Nothing in it is pooled, so freeing it has no effect.
func (f *frame) buffers() mem.BufferSlice {
	all := make(mem.BufferSlice, 0, 1+len(f.shared))
	return append(append(all, mem.SliceBuffer(f.head)), f.shared...)
}

// codec sends frames as they are and leaves every other message to gRPC's own codec.
type codec struct{ encoding.CodecV2 }

// newCodec wraps gRPC's codec for protobuf.
func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return f.buffers(), nil
	}
	out, err := c.CodecV2.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("marshal %T: %w", v, err)
	}
	return out, nil
}
