package config

// Protocol is a version of HTTP.
type Protocol uint8

// The versions. Auto is decided for each connection: downstream by ALPN, or by the first bytes in plaintext; upstream by ALPN.
const (
	ProtocolHTTP1 Protocol = iota
	ProtocolHTTP2
	ProtocolAuto
	ProtocolDownstream // of a cluster: that of the request's client
)

// HTTP2 bounds HTTP/2 connections. A value of 0 takes its default (see package http2).
type HTTP2 struct {
	MaxStreams      uint32     // open at once on a connection
	StreamWindow    uint32     // bytes
	ConnWindow      uint32     // bytes
	ExtendedConnect bool       // tunnels by :protocol (RFC 8441)
	Keepalive       *Keepalive // nil: none
}
