package consul

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// tokenFile is an ACL token that somebody else renews in a file. A nil *tokenFile is no token: anonymous.
type tokenFile struct {
	path string

	mu       sync.Mutex
	token    string    // guarded by mu, as all below
	modified time.Time // of the file that token was read from
	checked  time.Time // when the file was looked at last
}

// tokenCheckInterval bounds how often the file is looked at when a thousand requests start together.
const tokenCheckInterval = time.Second

// current returns the token, read again when the file has changed. While the file cannot be read, the last one stays:
// whoever renews it may be at it just now, and Consul tells when the old one is no longer good.
func (f *tokenFile) current() (string, error) {
	if f == nil {
		return "", nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.token != "" && time.Since(f.checked) < tokenCheckInterval {
		return f.token, nil
	}
	f.checked = time.Now()
	info, err := os.Stat(f.path)
	if err == nil && f.token != "" && info.ModTime().Equal(f.modified) {
		return f.token, nil
	}
	if err == nil {
		_, err = f.read(info.ModTime())
	}
	if err != nil && f.token == "" {
		return "", fmt.Errorf("read token: %w", err)
	}
	return f.token, nil
}

// reread returns what the file holds now.
func (f *tokenFile) reread() (string, error) {
	if f == nil {
		return "", nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	token, err := f.read(time.Time{})
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	return token, nil
}

const maxToken = 4 << 10

// read takes the token from the file. f.mu is held. No error tells what is in the file.
func (f *tokenFile) read(modified time.Time) (string, error) {
	data, err := os.ReadFile(f.path)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	switch {
	case token == "":
		return "", errors.New(f.path + " is empty")
	case len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return "", errors.New(f.path + " holds something else, want one line of printable ASCII")
	}
	f.token, f.modified = token, modified
	return token, nil
}
