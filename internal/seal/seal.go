// Package seal keeps last-good state on disk so that a process can start from it when its peers are away.
//
// A sealed file is one line of text and the payload behind it:
//
//	hostmesh-seal <format> <kind> <version> <payload bytes> <sha-256 of "<kind> <version> " + payload, hex>\n
//
// It is written beside its place, synced and renamed over it, so a reader finds the old file or the new one, never a
// mixture. A file that is torn, of another kind or of a newer version is refused with the reason.
package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const (
	magic    = "hostmesh-seal"
	format   = 1
	maxBytes = 1 << 30 // no state of ours comes near it; a larger file is not read into memory
	maxHead  = 256
)

// ErrRefused is wrapped by every error that Open returns for a file that exists but is not what was asked for.
var ErrRefused = errors.New("sealed file refused")

// Write puts payload at path, readable by its owner alone. kind names what it is (no spaces), version the layout of
// the payload. When Write returns nil the file is on stable storage; on error the old file is untouched.
func Write(path, kind string, version int, payload []byte) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("seal %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
			err = fmt.Errorf("seal %s: %w", path, err)
		}
	}()
	head := fmt.Sprintf("%s %d %s %d %d %s\n", magic, format, kind, version, len(payload), sum(kind, version, payload))
	if _, err = tmp.WriteString(head); err != nil {
		return err
	}
	if _, err = tmp.Write(payload); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// Read returns the payload of the file at path, if it is whole, of that kind and of that version. A missing file is
// fs.ErrNotExist, any other mismatch wraps ErrRefused and says what was got and what was wanted.
func Read(path, kind string, version int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open sealed %s: %w", kind, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open sealed %s: %w", kind, err)
	}
	if info.Size() > maxBytes {
		return nil, fmt.Errorf("open %s: %w: %d bytes, want at most %d", path, ErrRefused, info.Size(), maxBytes)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("open sealed %s: %w", kind, err)
	}
	payload, err := Open(data, kind, version)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return payload, nil
}

// Open returns the payload of a sealed file's bytes; it shares their memory. It is Read without the disk.
func Open(data []byte, kind string, version int) ([]byte, error) {
	line, payload, ok := bytes.Cut(data, []byte("\n"))
	if !ok || len(line) > maxHead {
		return nil, fmt.Errorf("%w: no head line", ErrRefused)
	}
	var gotMagic, gotKind, gotSum string
	var gotFormat, gotVersion, size int
	if _, err := fmt.Sscanf(string(line), "%s %d %s %d %d %s", &gotMagic, &gotFormat, &gotKind, &gotVersion, &size, &gotSum); err != nil || gotMagic != magic {
		return nil, fmt.Errorf("%w: not a sealed file of hostmesh", ErrRefused)
	}
	switch {
	case gotFormat != format:
		return nil, fmt.Errorf("%w: format %d, want %d", ErrRefused, gotFormat, format)
	case gotKind != kind:
		return nil, fmt.Errorf("%w: it holds %q, want %q", ErrRefused, gotKind, kind)
	case gotVersion != version:
		return nil, fmt.Errorf("%w: version %d of %s, want %d", ErrRefused, gotVersion, kind, version)
	case size != len(payload):
		return nil, fmt.Errorf("%w: %d bytes of %d, it is torn", ErrRefused, len(payload), size)
	case gotSum != sum(kind, version, payload):
		return nil, fmt.Errorf("%w: the checksum does not match, it is damaged", ErrRefused)
	}
	return payload, nil
}

func sum(kind string, version int, payload []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s %d ", kind, version)
	h.Write(payload)
	return hex.EncodeToString(h.Sum(nil))
}

// syncDir makes the rename itself durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
