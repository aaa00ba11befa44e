// Package handover passes open descriptors from a daemon to its successor, so that an upgrade, a crash or a hang loses
// neither the mount nor a connection nor a token.
//
//		             FDSTORE=1 FDNAME=kept-…            at its start: LISTEN_FDS, LISTEN_FDNAMES
//		daemon ──────────────────────────────→ keeper ────────────────────────────────────→ successor
//		   │        READY=1  WATCHDOG=1       (or systemd)
//		   └───────────────────────────────────────────────────────────────────────────────→ successor
//		             exec in place: IMDSFS_KEPT="PID name=fd …", if the Candidate is good
//
//	  - A [Store] is the set of named descriptors that a successor gets. systemd's file descriptor store holds copies of
//	    them, or a [Keeper] does, or nobody: then only exec in place passes them on.
//	  - A [Keeper] is the process that supervises the daemon and holds its descriptors where there is no systemd: in
//	    containers and in CI. It is what Restart=, WatchdogSec= and FileDescriptorStoreMax= are in a unit.
//	  - A [Candidate] is a program that may take our place. It is tried first, without our rights, on the daemon's own
//	    arguments.
//
// What the descriptors are is decided by those who keep them: package fs (the mount, its lock, records of the tree), and
// the daemon (sockets, [server] of the instance file). Files of this package: store.go and open.go (Store), exec.go,
// candidate.go, keeper.go, child.go, message.go and held.go (Keeper).
//
// # Who trusts whom
//
// There are three parties. Each checks what comes from one with fewer rights, and believes what comes from one with more.
//
//   - Root: the keeper and imdsfs mount-helper, which mounts and adds addresses; or systemd in the place of the keeper.
//   - The daemon's own user, with at most the capability to open a low port. Whoever gets control of the daemon is this
//     party.
//   - Everybody else on the machine and on the network.
//
// What crosses from the daemon to root:
//
//   - Messages to the keeper. [Keeper] checks each: only names that a Store makes, one descriptor at most, and only kinds
//     of descriptors that can be held. Bad messages are dropped, and a few a minute are logged (message.go). No message
//     can replace or remove what systemd has handed over. A flood, a hang or silence ends the daemon, not the keeper.
//   - Descriptors that are held. The keeper does not read them and mount-helper does not get them; only the next daemon
//     does.
//   - What the daemon writes to a terminal, without control characters (package privilege).
//   - The run-time directory and the state directory, which belong to the daemon's user. mount-helper acts on nothing that
//     it finds there before it has checked whose it is (packages source/safepath and fs).
//
// What crosses from root to the daemon is what privilege.Start lists: no terminal, no other descriptor, no other variable.
//
// What crosses from one daemon to the next, which has the same rights: descriptors by name. A successor does not fail over
// one that makes no sense, but opens it afresh. Exec also passes capabilities on; [Try] therefore checks that root chose
// the program.
//
// What crosses from everybody else:
//
//   - HTTP and the mount; see packages imds/edge and fs.
//   - The admin socket: package imds/control answers root and the daemon's own user, as the kernel names them.
//   - Places where everybody can write, such as /tmp: clients check whose the run-time directory is, and who answers, before
//     they send the first byte.
package handover

import (
	"os"
	"strconv"
	"strings"
)

// ExitHandedOver is the exit status of a daemon that ends for a successor.
const ExitHandedOver = 75

const (
	// keeperVariable, set by a keeper, is its process number.
	keeperVariable = "IMDSFS_KEEPER"
	// socketVariable, set by a keeper, is the descriptor of the daemon's socket to it, SOCK_DGRAM.
	socketVariable = "IMDSFS_KEEPER_SOCKET"
	// execVariable is set by exec in place: "PID NAME=FD NAME=FD …".
	execVariable = "IMDSFS_KEPT"
	// storeVariable is how many descriptors systemd holds at most, sd_notify(3).
	storeVariable  = "FDSTORE"
	notifyVariable = "NOTIFY_SOCKET"

	// prefix tells our descriptors from those that others hand over.
	prefix = "kept-"
	// socketName is the name of the socket to the keeper in execVariable.
	socketName = "keeper"
	maxFDName  = 255 // bytes, with prefix; systemd's limit
)

// FDName returns the FDNAME under which systemd or the keeper holds the descriptor with a name.
func FDName(name string) string { return prefix + name }

// IsFDName reports whether an FDNAME can be one that [FDName] makes: at most 255 bytes (systemd's limit) of printable
// ASCII, without blanks, colons and equals signs.
func IsFDName(fdName string) bool {
	name, ok := strings.CutPrefix(fdName, prefix)
	return ok && name != "" && name != socketName && len(fdName) <= maxFDName &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' || r == '=' })
}

// HasKeeper reports whether a keeper started this process.
func HasKeeper() bool { return os.Getenv(keeperVariable) == strconv.Itoa(os.Getppid()) }

// IsServiceVariable reports whether a variable of an environment, NAME=VALUE, is what a service manager or a keeper tells its
// service alone. A service passes it on to nobody.
func IsServiceVariable(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return name == notifyVariable || name == storeVariable || strings.HasPrefix(name, "LISTEN_") || strings.HasPrefix(name, "WATCHDOG_")
}
