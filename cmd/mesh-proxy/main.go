// Command mesh-proxy is the data plane of one host: it follows an xDS server, passes the host's traffic on, and
// announces what the host runs.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/hostmesh/hostmesh/host"
	"github.com/hostmesh/hostmesh/internal/gossip"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/overload"
	"github.com/hostmesh/hostmesh/proxy/xds"
)

// version is set by the linker (make build); a plain go build says "devel".
var version = "devel"

const (
	defaultConfig = "/etc/hostmesh/proxy.yaml"
	mostLoops     = 4  // unless more are asked for
	gcPercent     = 50 // garbage is cheap here and resident memory counts: hosts are mostly idle
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// settings is what the program was told, from either kind of file.
type settings struct {
	bootstrap                            *xds.Bootstrap
	admin, adminSocket, state, accessLog string
	loops                                int
	drainTime                            time.Duration
	listenerDrainTime                    time.Duration
	upgradeTime, handedOverTime          time.Duration
	host                                 *host.Options // nil: this host announces nothing
	dns                                  *dnsSettings  // nil: it answers no names
}

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "reload":
			return reload(args[1:], stdout, stderr)
		case "probe":
			return runProbe(args[1:], stdout, stderr)
		}
	}
	flags := flag.NewFlagSet("mesh-proxy", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var (
		config, bootstrap, state, logFormat, adminSocket string
		check, showVersion, verbose                      bool
		drainTime, upgradeTime, handedOverTime           time.Duration
	)
	flags.StringVar(&config, "config", defaultConfig, "read this proxy.yaml")
	flags.StringVar(&bootstrap, "bootstrap", "", "read this Envoy bootstrap file instead")
	flags.StringVar(&bootstrap, "c", "", "the same as --bootstrap")
	flags.StringVar(&state, "state", "", "with --bootstrap: keep the last good configuration in this directory")
	flags.StringVar(&adminSocket, "admin-socket", "", "with --bootstrap: serve the admin interface on this unix socket as well; it takes what changes something")
	flags.DurationVar(&drainTime, "drain-time", 10*time.Minute, "how long connections of a listener or filter chain that left the configuration may go on")
	flags.DurationVar(&upgradeTime, "upgrade-timeout", 30*time.Second, "how long the new process of an upgrade may take to be ready")
	flags.DurationVar(&handedOverTime, "upgrade-drain-time", 15*time.Minute, "how long the old process of an upgrade keeps the connections that it has")
	flags.StringVar(&logFormat, "log-format", "text", "text or json")
	flags.BoolVar(&verbose, "v", false, "log more")
	flags.BoolVar(&check, "check", false, "check the file and exit")
	flags.BoolVar(&showVersion, "version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if showVersion {
		fmt.Fprintf(stdout, "mesh-proxy %s (%s)\n", version, runtime.Version())
		return 0
	}
	log, err := logger(stderr, logFormat, verbose)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("got argument %q, want flags only", flags.Arg(0))
	}
	if err == nil && drainTime <= 0 {
		err = fmt.Errorf("--drain-time: got %v, want more than 0s", drainTime)
	}
	if err != nil {
		fmt.Fprintln(stderr, "mesh-proxy:", err)
		return 2
	}
	var s *settings
	if bootstrap != "" {
		s, err = fromBootstrap(bootstrap, state, adminSocket)
	} else {
		s, err = fromFile(config)
	}
	if err != nil {
		fmt.Fprintln(stderr, err) // a line each, with its place
		return 1
	}
	if check {
		return 0
	}
	s.listenerDrainTime, s.upgradeTime, s.handedOverTime = drainTime, upgradeTime, handedOverTime
	if err := serve(s, log); err != nil {
		log.Error("mesh-proxy ends", "err", err)
		return 1
	}
	return 0
}

func logger(w io.Writer, format string, verbose bool) (*slog.Logger, error) {
	options := &slog.HandlerOptions{}
	if verbose {
		options.Level = slog.LevelDebug
	}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("--log-format: got %q, want text or json", format)
}

func fromFile(path string) (*settings, error) {
	f, err := proxy.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &settings{
		bootstrap: f.Bootstrap(), admin: f.Admin.String(), adminSocket: f.AdminSocket, state: f.State, accessLog: f.AccessLog,
		loops: f.Loops, drainTime: f.DrainTime, dns: dnsOf(f),
	}
	if f.Gossip != nil {
		l := f.Node.Locality
		s.host = &host.Options{
			Dir: f.Services, Gossip: *f.Gossip, HostID: f.Node.ID,
			Locality: gossip.Locality{Region: l.Region, Zone: l.Zone, SubZone: l.SubZone},
		}
	}
	return s, nil
}

func fromBootstrap(path, state, adminSocket string) (*settings, error) {
	b, err := xds.ReadBootstrap(path)
	if err != nil {
		return nil, err
	}
	s := &settings{bootstrap: b, admin: "-", adminSocket: adminSocket, state: state}
	if b.Admin.IsValid() {
		s.admin = b.Admin.String()
	}
	return s, nil
}

// tune gives the event loops their processors, and one to everything else if there is one, and keeps the heap small. More
// than there are would cost a sixth of the processor time: each wake-up of a loop would start an idle thread that competes
// with it. What the environment sets (GOMAXPROCS, GOGC, GOMEMLIMIT) counts more. It returns the number of loops.
func tune(loops int) int {
	if loops == 0 {
		loops = min(mostLoops, runtime.GOMAXPROCS(0))
	}
	if procs := loops + 1; os.Getenv("GOMAXPROCS") == "" && procs < runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(procs)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	return loops
}

// overloadOf is what is done when there is too much: as the bootstrap says, or by default when the control group bounds the
// memory. The garbage collector works harder from nine tenths of the lowest bound on, before anything is shed; GOMEMLIMIT in
// the environment counts more.
func overloadOf(b *xds.Bootstrap, limit uint64) *config.Overload {
	o := &config.Overload{}
	if b.Overload != nil {
		*o = *b.Overload
	}
	if len(o.Actions) == 0 && limit > 0 {
		standard := overload.Default(limit)
		o.Interval, o.MaxHeap, o.Actions = standard.Interval, standard.MaxHeap, standard.Actions
	}
	return o
}

// boundMemory sets the limit of the Go runtime.
func boundMemory(o *config.Overload, limit uint64) {
	for _, bound := range []uint64{o.MaxHeap, o.MaxCgroup} {
		if bound > 0 && (limit == 0 || bound < limit) {
			limit = bound
		}
	}
	if limit > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(min(limit, math.MaxInt64) / 10 * 9))
	}
}
