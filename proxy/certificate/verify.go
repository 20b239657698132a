package certificate

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// What a peer's certificate is refused for, beyond its chain.
var (
	ErrNames = errors.New("no subject alternative name matches")
	ErrPins  = errors.New("neither public key nor certificate is one of those that are pinned")
	ErrDepth = errors.New("too many certificates between the peer's and a trusted one")
	ErrChain = errors.New("certificate is not trusted")
	errNone  = errors.New("no trusted authorities are known")
)

// rules are what a peer's certificate must be.
type rules struct {
	from  *config.Verification
	exprs []*regexp.Regexp // of from.Names that are expressions
}

func newRules(v *config.Verification) *rules {
	if v == nil {
		return nil
	}
	r := &rules{from: v, exprs: make([]*regexp.Regexp, len(v.Names))}
	for i, n := range v.Names {
		if n.Match.How == config.TextRegexp {
			// Its end is anchored within a group of its own, so that all alternatives are.
			r.exprs[i], _ = regexp.Compile(`\A(?:` + n.Match.Text + `)\z`) // nil, if it does not compile, matches nothing
		}
	}
	return r
}

// check applies the rules to a certificate whose chain was verified; without authorities there is none.
func (r *rules) check(leaf *x509.Certificate, chains [][]*x509.Certificate) error {
	v := r.from
	if len(v.SPKIs)+len(v.Hashes) > 0 && !slices.Contains(v.SPKIs, sha256.Sum256(leaf.RawSubjectPublicKeyInfo)) && !slices.Contains(v.Hashes, sha256.Sum256(leaf.Raw)) {
		return ErrPins
	}
	if v.MaxDepth >= 0 && len(chains) > 0 && !slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool { return len(chain)-2 <= v.MaxDepth }) {
		return ErrDepth
	}
	if v.Names == nil {
		return nil
	}
	for i := range v.Names {
		if r.named(&v.Names[i], r.exprs[i], leaf) {
			return nil
		}
	}
	return ErrNames
}

// named reports whether a name of the certificate matches.
func (r *rules) named(m *config.SANMatch, expr *regexp.Regexp, leaf *x509.Certificate) bool {
	is := func(kind config.SANType) bool { return m.Type == config.SANAny || m.Type == kind }
	if is(config.SANDNS) {
		for _, name := range leaf.DNSNames {
			if m.Match.How == config.TextExact && covers(name, m.Match.Text) || matches(&m.Match, expr, name) {
				return true
			}
		}
	}
	if is(config.SANURI) {
		for _, u := range leaf.URIs {
			if matches(&m.Match, expr, u.String()) {
				return true
			}
		}
	}
	if is(config.SANIP) {
		for _, ip := range leaf.IPAddresses {
			if matches(&m.Match, expr, ip.String()) {
				return true
			}
		}
	}
	if is(config.SANEmail) {
		for _, mail := range leaf.EmailAddresses {
			if matches(&m.Match, expr, mail) {
				return true
			}
		}
	}
	return false
}

// covers reports whether a certificate for pattern, which may begin with "*.", is one for a name (RFC 6125).
func covers(pattern, name string) bool {
	if rest, wild := strings.CutPrefix(pattern, "*."); wild {
		label, domain, _ := strings.Cut(name, ".")
		return label != "" && domain != "" && strings.Contains(rest, ".") && strings.EqualFold(domain, rest)
	}
	return strings.EqualFold(pattern, name)
}

func matches(m *config.TextMatch, expr *regexp.Regexp, text string) bool {
	if m.IgnoreCase {
		text = strings.ToLower(text)
	}
	switch m.How {
	case config.TextExact:
		return text == m.Text
	case config.TextPrefix:
		return strings.HasPrefix(text, m.Text)
	case config.TextSuffix:
		return strings.HasSuffix(text, m.Text)
	case config.TextContains:
		return strings.Contains(text, m.Text)
	}
	return expr != nil && expr.MatchString(text)
}

// verifyServer verifies a server's certificate, with each handshake anew, also of a session that is resumed. name, if it is set, is
// what the certificate must be for.
func (r *rules) verifyServer(cs *tls.ConnectionState, roots *x509.CertPool, trusted bool, name string) error {
	if len(cs.PeerCertificates) == 0 {
		return fmt.Errorf("verify server: %w", errNone)
	}
	leaf := cs.PeerCertificates[0]
	var chains [][]*x509.Certificate
	if trusted {
		if roots == nil { // nil would be the system's
			return fmt.Errorf("verify server: %w: %w", ErrChain, errNone)
		}
		options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), DNSName: name}
		for _, c := range cs.PeerCertificates[1:] {
			options.Intermediates.AddCert(c)
		}
		var err error
		if chains, err = leaf.Verify(options); err != nil {
			return fmt.Errorf("verify server: %w: %w", ErrChain, err)
		}
	} else if name != "" {
		if err := leaf.VerifyHostname(name); err != nil {
			return fmt.Errorf("verify server: %w: %w", ErrChain, err)
		}
	}
	if err := r.check(leaf, chains); err != nil {
		return fmt.Errorf("verify server: %w", err)
	}
	return nil
}
