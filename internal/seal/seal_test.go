package seal_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/internal/seal"
)

func TestWriteThenRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "view")
	for _, payload := range [][]byte{nil, []byte("one"), bytes.Repeat([]byte("x\n"), 100_000)} {
		if err := seal.Write(path, "view", 3, payload); err != nil {
			t.Fatal(err)
		}
		got, err := seal.Read(path, "view", 3)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, payload) {
			t.Errorf("Read returned %d bytes, want the %d written", len(got), len(payload))
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) != 0 {
		t.Errorf("temporary files left behind: %v", left)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
}

func TestReadRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "view")
	if err := seal.Write(path, "view", 1, []byte("payload")); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-1] ^= 1
	for _, c := range []struct {
		name    string
		data    []byte
		kind    string
		version int
		want    string
	}{
		{"torn", whole[:len(whole)-2], "view", 1, "it is torn"},
		{"empty", nil, "view", 1, "no head line"},
		{"damaged", flipped, "view", 1, "checksum"},
		{"foreign", []byte("{\"json\": true}\n"), "view", 1, "not a sealed file"},
		{"another kind", whole, "config", 1, `it holds "view", want "config"`},
		{"another version", whole, "view", 2, "version 1 of view, want 2"},
		{"trailing bytes", append(bytes.Clone(whole), 'x'), "view", 1, "it is torn"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := seal.Read(path, c.kind, c.version)
			if !errors.Is(err, seal.ErrRefused) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("Read: %v, want ErrRefused naming %s with %q", err, path, c.want)
			}
		})
	}
	if _, err := seal.Read(path+".missing", "view", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read of a missing file: %v, want fs.ErrNotExist", err)
	}
}

func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed")
	if err := seal.Write(path, "view", 1, []byte("payload")); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte("hostmesh-seal 1 view 1 -1 00\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		payload, err := seal.Open(data, "view", 1)
		if err == nil && !bytes.HasSuffix(data, payload) {
			t.Error("a payload that is not the file's")
		}
	})
}
