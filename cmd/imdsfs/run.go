package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/foreground"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
)

//go:embed demo.toml
var demoInstance []byte

// freePort lets the kernel choose a port, which only this machine reaches.
const freePort = "127.0.0.1:0"

// A runRequest holds the arguments of imdsfs run.
type runRequest struct {
	config   string // "" for the demo instance
	listen   string
	logLevel string
	command  []string // nil to serve until a signal

	stdout, stderr io.Writer
}

func newRunCommand(stdout, stderr io.Writer) *cobra.Command {
	r := runRequest{stdout: stdout, stderr: stderr}
	cmd := &cobra.Command{
		Use:   "run [-- COMMAND [ARG...]]",
		Short: "Serve a demo instance for one command, or until Ctrl-C",
		Long: `run serves a demo instance over HTTP on a free port of this machine, and runs COMMAND with the environment
variable ` + client.EndpointVariable + `, which points SDKs, the AWS CLI and imdsfs itself
at it. It needs no file, no root and no home directory. Without COMMAND it prints lines to paste into another
terminal, and serves until Ctrl-C.

COMMAND also gets the variables that imdsfs env prints, and IMDSFS_RUNTIME_DIR for imdsfs set --runtime-dir. It does
not get AWS_EC2_METADATA_DISABLED and ` + client.EndpointVariable + `_MODE; where
the environment names a proxy, no_proxy and NO_PROXY get the address. Keys and profiles of your own win over a role in
every SDK: unset them to see the role's.

COMMAND has the terminal. run passes signals on to it, but not those of the keyboard, which COMMAND gets itself. At the
end run removes what it has made. You can run several at once. There is no mount. Every user of this machine can reach the
port: do not serve a file with secrets on a machine that you share.

Exit codes: that of COMMAND, and 128 more than the number of the signal that ended it; 127 if there is no such
command, 126 if it cannot be run. Before COMMAND runs, and without: 0 done; 1 failed; 2 wrong usage; 3 the file is
invalid.`,
		Example: `  imdsfs run -- imdsfs get instance-id
  imdsfs run -- sh -c 'curl -s ${AWS_EC2_METADATA_SERVICE_ENDPOINT}latest/dynamic/instance-identity/document'
  imdsfs run -c testdata/instances/web-1.toml -- imdsfs tree tags`,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.command = args
			return r.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // the flags after COMMAND are its own
	f.StringVarP(&r.config, "config", "c", "", "instance `FILE` to serve, or none: describe this machine (default a demo instance)")
	f.StringVar(&r.listen, "listen", freePort, "`ADDR` to answer HTTP on")
	f.StringVar(&r.logLevel, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

// run serves, runs the command, and leaves nothing behind.
func (r *runRequest) run(parent context.Context) error {
	var program string
	if len(r.command) > 0 {
		var err error
		if program, err = foreground.Find(r.command[0]); err != nil {
			return err
		}
	}
	signals := foreground.Signals(len(r.command) > 0)
	dir, err := makeRunDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := r.settings(dir)
	if err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	ready, ended := make(chan *daemon.Daemon, 1), make(chan error, 1)
	start := daemon.Start{
		Settings: s, Handover: handover.Disabled(), Log: s.Logger(r.stderr), Build: buildInfo(),
		Embedded: true, Ready: func(d *daemon.Daemon) { ready <- d },
	}
	go func() { ended <- daemon.Run(ctx, start) }()
	stop := func() error {
		cancel()
		return <-ended
	}
	var d *daemon.Daemon
	select {
	case d = <-ready:
	case err := <-ended:
		return err
	case sig := <-signals:
		return errors.Join(stop(), r.interrupted(sig))
	}
	endpoint := client.EndpointOf(d.Addresses())
	if len(r.command) == 0 {
		err := r.printLines(s, d, endpoint)
		if err == nil {
			select {
			case <-signals:
			case err := <-ended:
				return err
			}
		}
		return errors.Join(err, stop())
	}
	c := &foreground.Command{
		Program: program, Args: r.command, Stdout: r.stdout, Stderr: r.stderr, Signals: signals, Served: ended,
		Report: func(err error) { report(r.stderr, err) },
	}
	if c.Environment, err = commandEnvironment(ctx, endpoint, s.RuntimeDir); err == nil {
		err = c.Run()
	}
	if !c.Alone() {
		c.DaemonEnded(stop())
	}
	if err == nil && c.Failed() {
		err = &problem.Exit{Code: exitFailed} // the daemon has said why
	}
	return err
}

// commandEnvironment returns the environment of the command: ours, with what points SDKs at the service at endpoint, and the
// attributes of its instance.
func commandEnvironment(ctx context.Context, endpoint, runtimeDir string) ([]string, error) {
	flags := clientFlags{endpoint: endpoint, timeout: client.DefaultTimeout}
	c, err := flags.client(ctx)
	if err != nil {
		return nil, err
	}
	variables, err := environmentOf(ctx, c)
	if err != nil {
		return nil, err
	}
	set := []string{"IMDSFS_RUNTIME_DIR=" + runtimeDir}
	for _, v := range variables {
		set = append(set, v.name+"="+v.value)
	}
	return foreground.Environment(os.Environ(), endpoint, set), nil
}

// interrupted returns how run ends if a signal comes before the command has begun.
func (r *runRequest) interrupted(sig os.Signal) error {
	n, ok := sig.(syscall.Signal)
	if len(r.command) == 0 || !ok {
		return nil
	}
	return foreground.EndedBy(n)
}

// makeRunDir makes a directory for all files of the daemon, which nobody else can look into or exchange.
func makeRunDir() (string, error) {
	const hint = "set TMPDIR to a directory that only you can change, or to /tmp"
	temp, _, err := safepath.Policy{}.OpenParent(filepath.Join(os.TempDir(), "imdsfs-run"))
	if err != nil {
		return "", problem.Failed(hint, err)
	}
	temp.Close()
	dir, err := os.MkdirTemp(temp.Name(), "imdsfs-run-") // 0700
	if err != nil {
		return "", problem.Failed("make room there, or "+hint, err)
	}
	return dir, nil
}

// settings returns the settings of a daemon that keeps everything in dir and has no mount. The other keys of [server] in a file
// apply.
func (r *runRequest) settings(dir string) (*daemon.Settings, error) {
	if r.listen == daemon.None {
		return nil, problem.Usage("leave out --listen", errors.New("there is nothing to serve without an address"))
	}
	c := daemon.Config{
		File: r.config, Mount: daemon.None, Listen: []string{r.listen}, AllowFrom: []string{"local"}, Metrics: daemon.None, LogLevel: r.logLevel,
		RuntimeDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "state"),
	}
	if c.Admin = daemon.AdminSocket(c.RuntimeDir); len(c.Admin) > daemon.MaxSocketPath {
		c.Admin = daemon.None
	}
	if c.File == "" {
		c.File = filepath.Join(dir, "instance.toml")
		if err := os.WriteFile(c.File, demoInstance, 0o600); err != nil {
			return nil, daemon.NoRoom(err, dir, "TMPDIR")
		}
	}
	s, err := c.Validate(nil)
	if err != nil {
		return nil, err
	}
	s.Keeper, s.Addresses = daemon.KeeperConfig{}, daemon.AddressConfig{}
	return s, nil
}

// printLines prints lines to paste into a shell.
func (r *runRequest) printLines(s *daemon.Settings, d *daemon.Daemon, endpoint string) error {
	tree := d.Snapshot()
	curl := "curl"
	if tree.Options().TokensRequired {
		curl += ` -H "X-aws-ec2-metadata-token: $(curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "${` + client.EndpointVariable + `}latest/api/token")"`
	}
	kind := "the instance"
	if r.config == "" {
		kind = "a demo instance"
	}
	text := fmt.Sprintf("# %s, %s, until Ctrl-C. In another terminal:\n", kind, cmp.Or(tree.InstanceID(), "without an id")) +
		exportEndpoint(endpoint) + "\n" +
		curl + ` "${` + client.EndpointVariable + "}latest/meta-data/instance-id\"\n" +
		"aws configure list\n" +
		"imdsfs tree\n"
	if s.Admin != daemon.None {
		text += fmt.Sprintf("imdsfs set --runtime-dir %s instance-type c7g.xlarge\n", quote(s.RuntimeDir))
	}
	if s.File != "" {
		text += fmt.Sprintf("# or edit %s\n", problem.Printable(s.File))
	}
	_, err := io.WriteString(r.stdout, text)
	return err
}
