// Package dnsask sends one question to one DNS server and takes the answer to that very question.
package dnsask

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// ErrFlooded is returned by Send when so many messages came over UDP that are no answer to the question that somebody seems to forge
// them. Over TCP nobody can.
var ErrFlooded = errors.New("many messages that are no answer came in its place")

const mostOthers = 100

// Send asks once over network ("udp" or "tcp"), from a socket, and so a port, of its own. It takes answers of up to
// udpBytes by UDP and waits as long as ctx lasts; the error is its cause then. An answer may be Truncated.
func Send(ctx context.Context, network, address string, q *dns.Msg, udpBytes uint16) (*dns.Msg, error) {
	client := dns.Client{Net: network}
	conn, err := client.DialContext(ctx, address)
	if err != nil {
		return nil, short(ctx, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	conn.UDPSize = max(udpBytes, dns.MinMsgSize)
	if err := conn.WriteMsg(q); err != nil {
		return nil, short(ctx, err)
	}
	for others := 0; ; others++ {
		if others > mostOthers {
			return nil, ErrFlooded
		}
		m, err := conn.ReadMsg()
		if m != nil && Answers(m, q) && (err == nil || m.Truncated) {
			return m, nil
		}
		var failed net.Error
		if network != "udp" || errors.As(err, &failed) {
			if err == nil {
				err = errors.New("the answer is to another question")
			}
			return nil, short(ctx, err)
		}
		// By UDP anybody can send something: the answer may still come.
	}
}

// short makes an error's text the same for the same failure: without the port that was asked from.
func short(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var failed *net.OpError
	if errors.As(err, &failed) {
		return failed.Err
	}
	return err
}

// Answers reports whether m is the answer to q (RFC 5452 §9.1). Case is not compared: some servers change it. A server
// that cannot read the question need not repeat it.
func Answers(m, q *dns.Msg) bool {
	if !m.Response || m.Id != q.Id || m.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(m.Question) == 0 {
		return m.Rcode == dns.RcodeFormatError
	}
	got, want := m.Question[0], q.Question[0]
	return len(m.Question) == 1 && got.Qtype == want.Qtype && got.Qclass == want.Qclass && strings.EqualFold(got.Name, want.Name)
}
