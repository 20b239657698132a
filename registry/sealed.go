package registry

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/internal/seal"
)

// Of the sealed file of a view.
const (
	viewKind    = "view"
	viewVersion = 1
)

// sealedView is the payload of version 1. It names its source, so that a file put in another's place is told.
type sealedView struct {
	Source   string     `json:"source"`
	Kind     string     `json:"kind"`
	Time     time.Time  `json:"time"`              // when the view was published
	Mapping  string     `json:"mapping,omitempty"` // the naming of the Mapping that made it
	Services []*Service `json:"services"`
	Hosts    []Host     `json:"hosts,omitempty"`
	Problems []Problem  `json:"problems,omitempty"`
	// Unclear: something is missing that Problems may be the reason of. Stood are those that are not.
	Unclear bool      `json:"unclear,omitempty"`
	Stood   []Problem `json:"stood,omitempty"`
}

// decodeView reads the payload of a sealed view. What it returns validates as a live view must.
func decodeView(payload []byte) (sealedView, error) {
	var v sealedView
	if err := json.Unmarshal(payload, &v); err != nil {
		return sealedView{}, fmt.Errorf("decode view: %w", err)
	}
	if v.Time.IsZero() {
		return sealedView{}, errors.New("decode view: it has no time")
	}
	if err := cmp.Or(validateHosts(v.Hosts), validate(v.Services, nil)); err != nil {
		return sealedView{}, fmt.Errorf("decode view: %w", err)
	}
	return v, nil
}

// naming tells mappings apart by what they take over and under which names; it is "" for one that changes no name. What
// only changes ports and labels is none of it: endpoints are compared by name and ID.
func (m Mapping) naming() string {
	text, err := json.Marshal(struct {
		Include, Exclude   []string          `json:",omitempty"`
		Rename, Namespaces map[string]string `json:",omitempty"`
	}{m.Include, m.Exclude, m.Rename, m.Namespaces})
	if err != nil || string(text) == "{}" {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// viewPath returns where the view of a source is sealed: a name that says the source's, whatever is in that.
func viewPath(dir, source string) string {
	name := url.PathEscape(source)
	if len(name) > 200 { // file names end at 255 bytes, and the temporary one is longer
		sum := sha256.Sum256([]byte(source))
		name = name[:100] + "-" + hex.EncodeToString(sum[:])
	}
	return filepath.Join(dir, "view-"+name)
}

// removeHalfWritten removes the temporary files of a process that was killed while it sealed. A file that stays
// does no harm but take its space.
func removeHalfWritten(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // told by the first write
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, ".view-") || strings.HasPrefix(name, "."+numberFile+".") {
			_ = os.Remove(filepath.Join(dir, name))
		}
	}
}

// load takes the view that was sealed, or records why it is refused. It is called before the source runs.
func (s *source) load() {
	dir := s.catalog.options.StateDir
	if dir == "" {
		return
	}
	v, err := s.readSealed(viewPath(dir, s.Name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		s.sealRefused = err.Error()
		s.catalog.log.Error("sealed view refused", "registry", s.Name, "error", err)
	default:
		s.view = View{Services: s.guard.load(v.Services), Hosts: v.Hosts, Problems: v.Problems}
		if s.guard.problems = v.Problems; v.Unclear {
			s.guard.problems = v.Stood
		}
		s.endpoints = countEndpoints(v.Services)
		s.remapped = v.Mapping != s.Mapping.naming()
		s.viewed, s.fromSeal, s.sealed = v.Time, true, true
		s.catalog.log.Info("serving the sealed view", "registry", s.Name, "services", len(v.Services), "of", v.Time)
	}
}

func (s *source) readSealed(path string) (sealedView, error) {
	payload, err := seal.Read(path, viewKind, viewVersion)
	if err != nil {
		return sealedView{}, err
	}
	v, err := decodeView(payload)
	if err != nil {
		return sealedView{}, fmt.Errorf("open %s: %w", path, err)
	}
	if v.Source != s.Name || v.Kind != s.Kind {
		return sealedView{}, fmt.Errorf("open %s: it is of registry %q (%s), want %q (%s)", path, v.Source, v.Kind, s.Name, s.Kind)
	}
	return v, nil
}

// neverSealed reports whether there is a view to seal, none was before, and sealing has not failed.
func (s *source) neverSealed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unsealed && !s.sealed && s.sealErr == nil
}

// seal writes the last view to disk if it is not there yet.
func (s *source) seal() error {
	s.mu.Lock()
	if !s.unsealed {
		s.mu.Unlock()
		return nil
	}
	v := sealedView{Source: s.Name, Kind: s.Kind, Time: s.viewed, Mapping: s.Mapping.naming(), Services: s.view.Services, Hosts: s.view.Hosts, Problems: s.view.Problems}
	if s.guard.unclear > 0 {
		v.Unclear, v.Stood = true, s.guard.stood
	}
	s.unsealed = false
	s.mu.Unlock()

	payload, err := json.Marshal(v)
	if err == nil {
		err = seal.Write(viewPath(s.catalog.options.StateDir, s.Name), viewKind, viewVersion, payload)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.unsealed = true
		if s.sealErr == nil { // once for an outage
			s.catalog.log.Error("view not sealed", "registry", s.Name, "error", err)
		}
	}
	s.sealErr, s.sealed = err, s.sealed || err == nil
	return err
}
