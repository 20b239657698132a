package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// maxReason bounds what a server may put into an error.
const maxReason = 500

// explain adds to an error of etcd's client what to do about it. It knows the password that was used, to tell whether
// the file holds another by now.
func (r *Registry) explain(err error, password string) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	grant := fmt.Sprintf("grant it: etcdctl role grant-permission ROLE read --prefix %s", r.cfg.root())
	switch err := bounded(err, password); {
	case is(err, rpctypes.ErrPermissionDenied):
		if r.cfg.Username == "" {
			return asPermission(err, "the user of the client certificate may not read that prefix; "+grant)
		}
		return asPermission(err, fmt.Sprintf("user %s may not read that prefix; %s", r.cfg.Username, grant))
	case is(err, rpctypes.ErrUserEmpty):
		return asPermission(err, "etcd wants a user: set username and passwordFile")
	case is(err, rpctypes.ErrAuthFailed):
		if now, readErr := readPassword(r.cfg.PasswordFile); readErr == nil && now != password {
			return fmt.Errorf("%w: %s has a new password by now, which is tried next", err, r.cfg.PasswordFile)
		}
		return asPermission(err, fmt.Sprintf("check username %s and what %s holds", r.cfg.Username, r.cfg.PasswordFile))
	case is(err, rpctypes.ErrInvalidAuthToken), is(err, rpctypes.ErrAuthOldRevision):
		return fmt.Errorf("%w: the user's rights or password were changed, or etcd was restarted; authenticating again", err)
	default:
		return connectionAdvice(err)
	}
}

// connectionAdvice says what to do about a connection that cannot be made. gRPC tells the cause by its text only.
func connectionAdvice(err error) error {
	text := err.Error()
	for _, advice := range []struct{ sign, todo string }{
		{"first record does not look like a TLS handshake", "the server speaks no TLS there: use http://, or its TLS port"},
		{"x509: certificate signed by unknown authority", "set caFile to the certificate authority of the server's certificate"},
		{"x509: certificate is valid for", "set serverName to a name that the server's certificate is for"},
		{"x509: cannot validate certificate for", "set serverName to a name that the server's certificate is for"},
		{"remote error: tls: bad certificate", "the server does not accept our certificate: check certFile and keyFile"},
		{"remote error: tls: certificate required", "the server wants a client certificate: set certFile and keyFile"},
		{"remote error: tls: unknown certificate authority", "the server does not know who signed our certificate: check certFile"},
		{"authentication handshake failed: EOF", "the server ended the TLS handshake: use http:// if it speaks no TLS"},
		{"authentication handshake failed: read tcp", "the server ended the TLS handshake: use http:// if it speaks no TLS"},
		{"no such host", "check the host's name in endpoints"},
		{"connection refused", "check endpoints, and that etcd runs there"},
		{"error reading server preface", "check that etcd's client port is there (2379), and whether it wants https://"},
		{"no leader", "the member is cut off from its cluster, or the cluster has no quorum"},
		{"no answer within", "check endpoints and the network: nothing answers there, or it has no leader"},
	} {
		if strings.Contains(text, advice.sign) {
			return fmt.Errorf("%w: %s", err, advice.todo)
		}
	}
	return err
}

// is tells whether err is that error of the server's. A watch that is canceled tells the reason by its text only.
func is(err error, want error) bool {
	return errors.Is(err, want) || strings.Contains(err.Error(), want.Error())
}

// told is an error in other words.
type told struct {
	error
	text string
}

func (t told) Error() string { return t.text }
func (t told) Unwrap() error { return t.error }

// bounded makes the text of an error that came from outside one line of bearable length, without the secret that the
// server was told and may repeat.
func bounded(err error, secret string) error {
	text := err.Error()
	if secret != "" {
		text = strings.ReplaceAll(text, secret, "(password)")
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	if text == err.Error() {
		return err
	}
	return told{err, text}
}
