package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/source/problem"
)

// instanceDirs are the run-time directories of the services of single instances, imdsfs@NAME.
const instanceDirs = "/run/imdsfs.instances/*"

// runtimeDirs are the run-time directories in which to look for a daemon: that of the flag, else our own and that of
// the machine's service.
func runtimeDirs(flag string) []string {
	own := daemon.DefaultRuntimeDir()
	switch {
	case flag != "":
		return []string{flag}
	case own == daemon.RootRuntimeDir:
		return []string{own}
	}
	return []string{own, daemon.RootRuntimeDir}
}

// answering is the first address of the daemon with the run-time directory dir at which somebody answers; not valid if
// there is none: a daemon that was killed leaves its addresses behind. The error says why the directory is not believed.
func answering(ctx context.Context, dialer *net.Dialer, dir string) (netip.AddrPort, error) {
	addresses, err := listening(dir)
	for _, address := range addresses {
		if conn, err := dialer.DialContext(ctx, "tcp", address.String()); err == nil {
			conn.Close()
			return address, nil
		}
	}
	return netip.AddrPort{}, err
}

// connect connects to the admin socket of the daemon that the flags name, else of our own or of the machine's. The
// error says what is known of the daemon that cannot be asked.
func (f *adminFlags) connect(ctx context.Context) (net.Conn, error) {
	if f.socket != "" {
		conn, err := dialDaemon(ctx, f.socket)
		if err != nil {
			return nil, noDaemon(f.socket, err)
		}
		return conn, nil
	}
	var looked []string
	for _, dir := range runtimeDirs(f.runtimeDir) {
		socket := daemon.AdminSocket(dir)
		conn, err := dialDaemon(ctx, socket)
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, os.ErrPermission):
			return nil, notForUs(ctx, dir, socket)
		case errors.Is(err, os.ErrNotExist):
			if address, _ := answering(ctx, &net.Dialer{Timeout: connectTimeout}, dir); address.IsValid() {
				return nil, problem.Failed("it was started with --admin none (admin in [server]), or with another socket: name that with --admin",
					fmt.Errorf("the daemon with the run-time directory %s answers HTTP at %s, but %w there", dir, address, errNoSocket))
			}
		case !errors.Is(err, syscall.ECONNREFUSED):
			return nil, noDaemon(socket, err)
		}
		looked = append(looked, socket)
	}
	err := noDaemon(strings.Join(looked, " or "), os.ErrNotExist)
	if others, _ := filepath.Glob(instanceDirs); f.runtimeDir == "" && len(others) > 0 {
		return nil, problem.Failed("name one of these with --runtime-dir: "+strings.Join(others, " "), err)
	}
	return nil, err
}

// notForUs says who may use the admin socket of a daemon.
func notForUs(ctx context.Context, dir, socket string) error {
	who := "root and the daemon's user"
	if info, err := os.Lstat(socket); err == nil {
		owner := int(info.Sys().(*syscall.Stat_t).Uid)
		who = "root and " + accountName(owner)
		if owner == 0 {
			who = "root"
		}
	}
	err := fmt.Errorf("%s: permission denied: only %s may use it", socket, who)
	if address, _ := answering(ctx, &net.Dialer{Timeout: connectTimeout}, dir); address.IsValid() {
		err = fmt.Errorf("a daemon with the run-time directory %s answers HTTP at %s, but only %s may use its admin socket", dir, address, who)
	}
	return problem.Failed("run this as root or as the daemon's user; imdsfs get, tree and env need no such right", err)
}

func accountName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "uid " + strconv.Itoa(uid)
}
