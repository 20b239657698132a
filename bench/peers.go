package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// product is a proxy that can be measured. Its configuration is a template over settings.
type product struct {
	name     string
	programs []string // where it may be, a path or a name
	config   string
	args     func(config string) []string
	// sink says that it sends its access log to LogSink.
	sink bool
}

// settings are what a configuration depends on.
type settings struct {
	Dir                     string
	Listen, Backend, Admin  netip.AddrPort
	LogSink                 netip.AddrPort // appends what it is sent to AccessLog
	AccessLog, ErrorLogFile string
}

var (
	//go:embed mesh-proxy.yaml.tmpl
	meshConfig string
	//go:embed haproxy.cfg.tmpl
	haproxyConfig string
	//go:embed nginx.conf.tmpl
	nginxConfig string
)

func products(bin string) []product {
	return []product{
		{
			"mesh-proxy",
			[]string{filepath.Join(bin, "mesh-proxy")},
			meshConfig,
			func(c string) []string { return []string{"-bootstrap", c} }, false,
		},
		{
			"haproxy",
			[]string{"haproxy", "/usr/sbin/haproxy"},
			haproxyConfig,
			func(c string) []string { return []string{"-db", "-f", c} }, true,
		},
		{
			"nginx",
			[]string{"nginx", "/usr/sbin/nginx"},
			nginxConfig,
			func(c string) []string { return []string{"-p", filepath.Dir(c), "-c", c} }, false,
		},
	}
}

// peer is a product that runs.
type peer struct {
	name   string
	addr   netip.AddrPort
	cmd    *exec.Cmd
	exited chan struct{}
	log    string // access log
	sink   *sink  // of the access log, or nil
	stderr *bytes.Buffer
	logged int64
}

func startPeers(ctx context.Context, o options, dir string, l *load, cpus processors) ([]*peer, error) {
	var peers []*peer
	for _, name := range o.peers {
		p, err := startPeer(ctx, o.bin, name, filepath.Join(dir, name), l.addr, cpus)
		if p != nil {
			peers = append(peers, p)
		}
		if err != nil {
			return peers, fmt.Errorf("start %s: %w", name, err)
		}
	}
	return peers, nil
}

func startPeer(ctx context.Context, bin, name, dir string, backend netip.AddrPort, cpus processors) (*peer, error) {
	var pr *product
	for _, known := range products(bin) {
		if known.name == name {
			pr = &known
		}
	}
	if pr == nil {
		return nil, errors.New("no such peer")
	}
	program, err := find(pr.programs)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s := settings{Dir: dir, Backend: backend, AccessLog: filepath.Join(dir, "access.log"), ErrorLogFile: filepath.Join(dir, "error.log")}
	if s.Listen, err = freePort(); err != nil {
		return nil, err
	}
	if s.Admin, err = freePort(); err != nil {
		return nil, err
	}
	p := &peer{name: name, addr: s.Listen, log: s.AccessLog, stderr: new(bytes.Buffer), exited: make(chan struct{})}
	if pr.sink {
		if p.sink, err = openSink(s.AccessLog, cpus.load); err != nil {
			return nil, err
		}
		s.LogSink = p.sink.addr
	}
	config, err := writeConfig(dir, pr, s)
	if err != nil {
		return nil, errors.Join(err, p.sink.close())
	}
	p.cmd = exec.Command(program, pr.args(config)...)
	p.cmd.Stderr = p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt at the terminal is for us; we then stop it
	if err := onCPU(cpus.proxy, p.cmd.Start); err != nil {
		return nil, errors.Join(err, p.sink.close())
	}
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	return p, p.ready(ctx)
}

func find(programs []string) (string, error) {
	for _, name := range programs {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: not installed (make build; apt-get install haproxy nginx-light)", strings.Join(programs, " or "))
}

func freePort() (netip.AddrPort, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	return netip.ParseAddrPort(l.Addr().String())
}

func writeConfig(dir string, pr *product, s settings) (string, error) {
	t, err := template.New(pr.name).Option("missingkey=error").Parse(pr.config)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, s); err != nil {
		return "", err
	}
	file := filepath.Join(dir, "config.yaml")
	return file, os.WriteFile(file, b.Bytes(), 0o644)
}

// ready waits until the peer accepts connections.
func (p *peer) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		if c, err := net.Dial("tcp", p.addr.String()); err == nil {
			return c.Close()
		}
		select {
		case <-p.exited:
			return fmt.Errorf("ended: %v: %s", p.cmd.ProcessState, p.stderr)
		case <-ctx.Done():
			return fmt.Errorf("wait for %v: %w", p.addr, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *peer) pid() int { return p.cmd.Process.Pid }

// check makes sure, after a measurement, that the peer lives and has written its access log.
func (p *peer) check() error {
	select {
	case <-p.exited:
		return fmt.Errorf("ended: %v: %s", p.cmd.ProcessState, p.stderr)
	default:
	}
	info, err := os.Stat(p.log)
	if err != nil {
		return fmt.Errorf("read access log: %w", err)
	}
	if info.Size() <= p.logged {
		return fmt.Errorf("access log %s has not grown", p.log)
	}
	p.logged = info.Size()
	return nil
}

// stop ends the peer and waits for it.
func (p *peer) stop() {
	defer p.sink.close()
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(3 * time.Second):
		p.cmd.Process.Kill()
		<-p.exited
	}
}
