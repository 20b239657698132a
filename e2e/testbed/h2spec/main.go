// Command h2spec is the judge of HTTP/2 servers by Moto Ishizawa, with the flags of its own that the tests use. It is a
// module of its own so that nothing of it is linked into Hostmesh.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"
)

func main() {
	c := config.Config{Insecure: true}
	flag.StringVar(&c.Host, "h", "127.0.0.1", "the server's host")
	flag.IntVar(&c.Port, "p", 0, "its port")
	flag.StringVar(&c.Path, "P", "/", "the path that is asked for")
	flag.DurationVar(&c.Timeout, "o", 2*time.Second, "how long an answer is waited for")
	flag.IntVar(&c.MaxHeaderLen, "max-header-length", 4000, "the longest header")
	flag.BoolVar(&c.Strict, "S", false, "strict: what a server should do is demanded too")
	flag.BoolVar(&c.TLS, "t", false, "over TLS; certificates are not verified")
	flag.Parse()
	c.Sections = flag.Args()
	success, err := h2spec.Run(&c)
	if err != nil {
		fmt.Fprintln(os.Stderr, "h2spec:", err)
	}
	if err != nil || !success {
		os.Exit(1)
	}
}
