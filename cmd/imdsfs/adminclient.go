package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/rundir"
	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/problem"
)

const (
	maxAdminAnswer = 16 << 20 // bytes
	adminTimeout   = 30 * time.Second
)

// adminFlags are the flags of the subcommands that talk to the running daemon.
type adminFlags struct {
	socket     string
	runtimeDir string
}

func (f *adminFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.socket, "admin", "", "admin `SOCKET` of the daemon (default RUNTIME-DIR/admin.sock)")
	cmd.Flags().StringVar(&f.runtimeDir, "runtime-dir", "", "run-time `DIR` of the daemon (default "+strings.Join(rundir.Candidates(""), ", else ")+")")
}

// path returns the first path at which to expect the admin socket.
func (f *adminFlags) path() string {
	return cmp.Or(f.socket, daemon.AdminSocket(cmp.Or(f.runtimeDir, daemon.DefaultRuntimeDir())))
}

// call sends one request to the daemon, and reads its answer. body and result may be nil.
func (f *adminFlags) call(ctx context.Context, method, path string, body, result any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://imdsfs"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	conn, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	if err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(answer, resp)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(answer, result); err != nil {
		return fmt.Errorf("the daemon's answer is not understood: %w", err)
	}
	return nil
}

// errNoDaemon says that no daemon answers at an admin socket.
var errNoDaemon = errors.New("no imdsfs is running")

// errNoSocket says that a daemon runs without an admin socket.
var errNoSocket = errors.New("has no admin socket")

// noDaemon explains why no connection to an admin socket could be made.
func noDaemon(socket string, err error) error {
	var explained *problem.Error
	switch {
	case errors.As(err, &explained):
		return err
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return problem.Failed("start it with imdsfs serve, or name its --runtime-dir or --admin socket",
			fmt.Errorf("%w at %s", errNoDaemon, socket))
	case errors.Is(err, os.ErrPermission):
		return problem.Failed("run as root or as the daemon's user", fmt.Errorf("%s: permission denied", socket))
	}
	return fmt.Errorf("ask the daemon at %s: %w", socket, err)
}

// refusal returns the error of an answer that is not 200: the daemon refuses (exit code 4), its input is faulty (3), or it has
// failed (1).
func refusal(answer []byte, resp *http.Response) error {
	var p control.Problem
	if err := json.Unmarshal(answer, &p); err != nil || p.Message == "" {
		return fmt.Errorf("the daemon answers %s", resp.Status)
	}
	if resp.StatusCode >= 500 {
		return problem.Failed(p.Hint, errors.New(p.Message))
	}
	if len(p.Faults) > 0 {
		return problem.Invalid("the daemon keeps serving what it served before: correct the input and reload again", lines(p.Faults))
	}
	return problem.No(p.Hint, errors.New(p.Code+": "+p.Message))
}

// instanceDirs are the run-time directories of the services of single instances, imdsfs@NAME.
const instanceDirs = "/run/imdsfs.instances/*"

// connect connects to the admin socket of the daemon that the flags name; without flags, of our own daemon or of the
// machine's. The error says what is known of a daemon that cannot be asked.
func (f *adminFlags) connect(ctx context.Context) (net.Conn, error) {
	if f.socket != "" {
		conn, err := rundir.Dial(ctx, f.socket)
		if err != nil {
			return nil, noDaemon(f.socket, err)
		}
		return conn, nil
	}
	var looked []string
	for _, dir := range rundir.Candidates(f.runtimeDir) {
		socket := daemon.AdminSocket(dir)
		conn, err := rundir.Dial(ctx, socket)
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, os.ErrPermission):
			return nil, notForUs(ctx, dir, socket)
		case errors.Is(err, os.ErrNotExist):
			if address, _ := rundir.Answering(ctx, &net.Dialer{Timeout: client.ConnectTimeout}, dir); address.IsValid() {
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

// notForUs returns the error of an admin socket that we may not use. It says who may.
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
	if address, _ := rundir.Answering(ctx, &net.Dialer{Timeout: client.ConnectTimeout}, dir); address.IsValid() {
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
