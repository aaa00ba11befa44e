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
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
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
	cmd.Flags().StringVar(&f.runtimeDir, "runtime-dir", "", "run-time `DIR` of the daemon (default "+strings.Join(runtimeDirs(""), ", else ")+")")
}

// path is the admin socket.
func (f *adminFlags) path() string {
	return cmp.Or(f.socket, daemon.AdminSocket(cmp.Or(f.runtimeDir, daemon.DefaultRuntimeDir())))
}

// call asks the daemon. body and result may be nil.
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

// errNoDaemon is that nobody answers at an admin socket.
var errNoDaemon = errors.New("no imdsfs is running")

// errNoSocket is that a daemon runs and cannot be asked.
var errNoSocket = errors.New("has no admin socket")

func noDaemon(socket string, err error) error {
	var said *problem.Error
	switch {
	case errors.As(err, &said):
		return err
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return problem.Failed("start it with imdsfs serve, or name its --runtime-dir or --admin socket",
			fmt.Errorf("%w at %s", errNoDaemon, socket))
	case errors.Is(err, os.ErrPermission):
		return problem.Failed("run as root or as the daemon's user", fmt.Errorf("%s: permission denied", socket))
	}
	return fmt.Errorf("ask the daemon at %s: %w", socket, err)
}

// refusal is the daemon's no, exit code 4, that its input is faulty, or that it could not do what it was asked for.
func refusal(answer []byte, resp *http.Response) error {
	var p control.Problem
	if err := json.Unmarshal(answer, &p); err != nil || p.Message == "" {
		return fmt.Errorf("the daemon answers %s", resp.Status)
	}
	if resp.StatusCode >= 500 {
		return problem.Failed(p.Hint, errors.New(p.Message))
	}
	if len(p.Faults) > 0 {
		return problem.Invalid("the daemon goes on serving what was there before: mend the input and reload again", lines(p.Faults))
	}
	return problem.No(p.Hint, errors.New(p.Code+": "+p.Message))
}
