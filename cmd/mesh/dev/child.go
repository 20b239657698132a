package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// child is one process of the tree. It is started again whenever it ends, until ctx does.
type child struct {
	name string
	argv []string
}

const (
	restartMin  = 200 * time.Millisecond
	restartMax  = 5 * time.Second
	healthyRun  = 10 * time.Second // a child that ran that long is restarted at once
	stopTimeout = 15 * time.Second
)

// run keeps the child running until ctx ends, then stops it with SIGTERM. What it writes goes to LOGDIR/NAME.log.
func (c child) run(ctx context.Context, logDir string, say io.Writer) error {
	logFile, err := os.OpenFile(filepath.Join(logDir, c.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	defer logFile.Close()
	for pause := restartMin; ; {
		started := time.Now()
		err := c.once(ctx, logFile)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("start %s: %w", c.name, err)
		}
		if time.Since(started) > healthyRun {
			pause = restartMin
		}
		fmt.Fprintf(say, "%s ended (%s); starting it again in %s, its log is %s\n", c.name, reason(err), pause, logFile.Name())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, restartMax)
	}
}

// once runs the process to its end. It dies with its parent, so that nothing is left behind by a killed mesh dev.
func (c child) once(ctx context.Context, output io.Writer) error {
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	return cmd.Run()
}

func reason(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}
