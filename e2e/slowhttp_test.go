package e2e

import (
	"context"
	"encoding/csv"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// judgeSlowHTTP runs slowhttptest's four attacks against a hop. Its own probe has to find the service available all the time, and so
// do the others; connections that do nothing are closed.
func judgeSlowHTTP(t *testing.T, kind hopKind) {
	tool, err := exec.LookPath("slowhttptest")
	if err != nil {
		t.Fatal("slowhttptest is not installed; run make setup")
	}
	spec := hopSpec{to: []string{hostileBackend(t)}, hcm: hostileLimits}
	for _, c := range []struct {
		name   string
		args   []string
		closes bool
	}{
		{"slow headers", []string{"-H", "-x", "10"}, true},
		{"slow body", []string{"-B", "-s", "100000", "-x", "10"}, true},
		{"ranges", []string{"-R", "-a", "5", "-b", "2000"}, false},
		{"slow read", []string{"-X", "-w", "1", "-y", "512", "-z", "5", "-n", "1", "-k", "3"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := startHop(t, kind, spec)
			others := startBystanders(t, h.addr, onlyHTTP1)
			h.eventuallyStat(t, `http\.in\.downstream_cx_active`, func(n uint64) bool { return n >= bystanderClients })
			before, open := h.resident(t), h.stats(t, `http\.in\.downstream_cx_active`)
			most := watchResident(t, h)
			others.during("the attack")
			report := filepath.Join(t.TempDir(), "report")
			ctx, cancel := context.WithTimeout(t.Context(), churnTime()+time.Minute)
			defer cancel()
			seconds := strconv.Itoa(max(int(churnTime().Seconds()/4), 5))
			cmd := exec.CommandContext(ctx, tool, append(c.args, "-c", "200", "-r", "200", "-i", "1", "-l", seconds, "-p", "5", "-g", "-o", report, "-u", "http://"+h.addr+"/large")...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("slowhttptest: %v\n%s", err, tail(string(out), 2000))
			}
			closed, away := slowHTTPReport(t, report+".csv")
			t.Logf("%d connections were closed", closed)
			if away > 0 || c.closes && closed == 0 {
				t.Errorf("%d connections closed; %d times the service was not available", closed, away)
			}
			if grown := int64(most()) - int64(before); grown > residentBound {
				t.Errorf("resident memory grew by %d MiB", grown>>20)
			}
			h.eventuallyStat(t, `http\.in\.downstream_cx_active`, func(n uint64) bool { return n <= open })
			others.finish()
		})
	}
}

// slowHTTPReport reads the report: a line a second, of connections closed, pending and connected, and how many of them are served
// while a probe was answered.
func slowHTTPReport(t testing.TB, path string) (closed, away int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) < 3 || len(rows[0]) != 5 {
		t.Fatalf("%v in %q", err, rows)
	}
	for _, row := range rows[1:] {
		closed, _ = strconv.Atoi(row[1])
		if row[4] == "0" {
			away++
		}
	}
	return closed, away
}
