package probe

import (
	"errors"
	"fmt"
	"io"
	"net/http"
)

// client speaks HTTP/2 and nothing else, on one connection at a time. A request that the proxy says it has not processed is
// sent again on another one, as the protocol has it; that is no drop.
func (p *prober) client() *http.Client {
	t := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true, TLSClientConfig: p.TLS.Clone(), TLSHandshakeTimeout: p.Timeout}
	t.Protocols.SetHTTP2(p.secure)
	t.Protocols.SetUnencryptedHTTP2(!p.secure)
	return &http.Client{Transport: t, Timeout: p.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// keep2 is keep for HTTP/2.
func (p *prober) keep2(jobs <-chan job) {
	c := p.client()
	defer c.CloseIdleConnections()
	for j := range jobs {
		if err := p.ask(c); err != nil {
			p.failed("kept connection", err)
			continue
		}
		p.answered(j)
	}
}

// renew2 is renew for HTTP/2.
func (p *prober) renew2(jobs <-chan job) {
	for j := range jobs {
		c := p.client()
		if err := p.ask(c); err != nil {
			p.failed("new connection", err)
		} else {
			p.answered(j)
		}
		c.CloseIdleConnections()
	}
}

// ask sends a request and reads all of its answer.
func (p *prober) ask(c *http.Client) error {
	req, err := http.NewRequest(http.MethodGet, p.URL, nil)
	if err != nil {
		return err
	}
	req.Host = p.Host
	req.Header.Set("User-Agent", "mesh-proxy-probe")
	resp, err := c.Do(req)
	if err != nil {
		return errors.Unwrap(err) // without the URL
	}
	defer resp.Body.Close()
	return whole(resp)
}

// whole reads an answer to its end and judges it.
func whole(resp *http.Response) error {
	n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return fmt.Errorf("in the body: %w", err)
	case n > maxBody:
		return errors.New("the body is too long for a probe")
	case resp.StatusCode >= 500:
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}
