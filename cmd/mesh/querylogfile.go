package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hostmesh/hostmesh/dnsserver/dnstap"
)

// queryLogSection says where is logged what is asked and answered.
type queryLogSection struct {
	Socket    string `yaml:"socket"`
	File      string `yaml:"file"`
	FileBytes int64  `yaml:"fileBytes"`
	Sample    uint32 `yaml:"sample"`
}

const (
	defaultLogBytes = 100_000_000
	leastLogBytes   = 1_000_000
	longestSocket   = 107 // bytes of a path, for the kernel
)

// SetDefaults implements the hook of internal/yamlpos.
func (q *queryLogSection) SetDefaults() { q.FileBytes, q.Sample = defaultLogBytes, 1 }

// Check implements the hook of internal/yamlpos.
func (q *queryLogSection) Check(report func(path, got, want string)) {
	for field, path := range map[string]string{"socket": q.Socket, "file": q.File} {
		if path != "" && !filepath.IsAbs(path) {
			report(field, fmt.Sprintf("%q", path), "an absolute path")
		}
	}
	if (q.Socket == "") == (q.File == "") {
		report("", fmt.Sprintf("socket %q and file %q", q.Socket, q.File), "one of them: the unix socket of a receiver of dnstap, or a file")
	}
	if len(q.Socket) > longestSocket {
		report("socket", fmt.Sprintf("%d bytes", len(q.Socket)), fmt.Sprintf("at most %d", longestSocket))
	}
	if q.FileBytes < leastLogBytes {
		report("fileBytes", fmt.Sprint(q.FileBytes), fmt.Sprintf("%d or more", leastLogBytes))
	}
	if q.Sample == 0 {
		report("sample", "0", "of how many queries one is logged: 1 for all")
	}
}

// log makes the log of a server that calls itself nsid, or by the host's name.
func (q *queryLogSection) log(nsid string, log *slog.Logger) *dnstap.Log {
	if nsid == "" {
		nsid, _ = os.Hostname()
	}
	return dnstap.New(dnstap.Options{
		Socket: q.Socket, File: q.File, FileBytes: q.FileBytes, Sample: q.Sample, Identity: nsid, Version: "hostmesh", Log: log,
	})
}
