package systemd

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Socket is a descriptor that the service manager handed to this process: one of a .socket unit, by the unit's name or
// its FileDescriptorName, or one that an earlier process had stored, by the name that it gave.
type Socket struct {
	FD   int
	Name string
}

const (
	firstFD       = 3       // SD_LISTEN_FDS_START
	mostInherited = 1 << 16 // nobody has so many
)

// Sockets takes the descriptors that the manager handed out; the caller owns them. A second call, and a child of this
// process, finds none.
func Sockets() []Socket {
	pid, fds, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		_ = os.Unsetenv(name)
	}
	count, err := strconv.Atoi(fds)
	if err != nil || count <= 0 || count > mostInherited || pid != strconv.Itoa(os.Getpid()) {
		return nil
	}
	split := strings.Split(names, ":")
	sockets := make([]Socket, count)
	for i := range sockets {
		sockets[i].FD = firstFD + i
		if i < len(split) {
			sockets[i].Name = split[i]
		}
		unix.CloseOnExec(sockets[i].FD)
	}
	return sockets
}
