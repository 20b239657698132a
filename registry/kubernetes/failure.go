package kubernetes

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/hostmesh/hostmesh/registry"
)

// explain adds to a failure what can be done about it. A refusal wraps registry.ErrPermission.
func explain(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		plain     tls.RecordHeaderError
		dial      *net.OpError
	)
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: %w; give that user the role of README.md: list and watch", registry.ErrPermission, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: %w; the token or client certificate is not accepted: renew it, the file is read again", registry.ErrPermission, err)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w; want a Kubernetes API server of version 1.21 or later at that address", err)
	case errors.As(err, &authority):
		return fmt.Errorf("%w; set certificate-authority of the kubeconfig's cluster to the authority of this server", err)
	case errors.As(err, &name):
		return fmt.Errorf("%w; use one of those names as server in the kubeconfig, or set tls-server-name of the cluster to it", err)
	case errors.As(err, &invalid):
		return fmt.Errorf("%w; renew the server's certificate, and look at this host's clock", err)
	case errors.As(err, &plain), errors.Is(err, io.EOF):
		return fmt.Errorf("%w; want an API server, which speaks TLS, at the address in the kubeconfig", err)
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("%w; is the server of the kubeconfig right, and can this host reach it?", err)
	}
	return err
}
