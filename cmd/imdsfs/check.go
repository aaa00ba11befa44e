package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

func newCheckCommand(stdout, stderr io.Writer) *cobra.Command {
	var c checkRequest
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Validate instance files and show where each value comes from",
		Long: `check validates instance files without serving them and without running anything. What it accepts,
serve -c FILE accepts.

For a good file it prints every setting and every leaf of the tree with its value and where that
comes from: the file and line that state it, what it is derived from, or that it is a default.
Secrets are masked. For a faulty file it prints every fault with file, line and key, and exits
with 3. Warnings do not change the exit code.

Below the tree it lists the changes made at run time that are in the state directory of serve (state-dir
under [server], or the default). The tree does not include them. If you may not read them, check warns you.

What a file may name and do depends on its owner and on who reads it. With --user NAME, as root, check reads
the files as that user does, with the user's groups. What the user may not read is a fault, which names the
directory or file that denies it and the command that corrects it.

With --explain PATH it prints the value at one path, and what it follows from, back to the lines of the file and the
defaults; then the source of the rule. PATH may be a setting too: instance.architecture, metadata-options.http-tokens.

With --json it prints one JSON document for each file, on one line, also for a faulty file:
{"file", "good", "faults": [{"file", "line", "key", "message", "hint"}], "warnings": [the same],
"settings": [{"key", "value", "origin"}], "leaves": [{"path", "value", "secret", "origin"}]}.
The value of a secret is null.`,
		Example: `  imdsfs check testdata/instances/web-1.toml
  imdsfs check --quiet testdata/instances/*.toml
  imdsfs check --user root testdata/instances/minimal.toml
  imdsfs check --explain hostname testdata/instances/minimal.toml
  imdsfs check --json testdata/instances/minimal.toml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return problem.Usage("see imdsfs check --help", errors.New("imdsfs check takes one file or more"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(cmd.Context(), stdout, stderr, args)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&c.quiet, "quiet", "q", false, "print faults and warnings only")
	f.BoolVar(&c.json, "json", false, "print one JSON document for each file")
	f.StringVar(&c.user, "user", "", "read the files as the user `NAME` does")
	f.StringVar(&c.explain, "explain", "", "print the value at `PATH` and what it follows from")
	cmd.MarkFlagsMutuallyExclusive("quiet", "json", "explain")
	return cmd
}

type checkRequest struct {
	quiet, json bool
	user        string
	explain     string // a path, "" to print everything
}

func (c *checkRequest) run(ctx context.Context, stdout, stderr io.Writer, paths []string) error {
	var faults problem.Faults
	var failed error
	for _, path := range paths {
		r, err := c.inspect(ctx, path)
		if err != nil {
			return err
		}
		faults = append(faults, r.faults...)
		failed = errors.Join(failed, r.err)
		if c.json {
			err = json.NewEncoder(stdout).Encode(r.document())
		} else {
			err = c.print(stdout, stderr, r)
		}
		if err != nil {
			return err
		}
	}
	switch {
	case len(faults) == 0 && failed == nil:
		return nil
	case c.json:
		return &problem.Exit{Code: exitInvalid} // the documents say why
	case len(faults) == 0:
		return problem.Invalid("", failed)
	case failed != nil:
		report(stderr, failed)
	}
	return faults.Err()
}

func (c *checkRequest) print(stdout, stderr io.Writer, r *checked) error {
	for _, w := range r.warnings {
		say(stderr, "warning", w.String())
	}
	switch {
	case c.quiet || r.snap == nil:
		return nil
	case c.explain != "":
		return r.explain(stdout, c.explain)
	}
	if err := r.print(stdout, terminalWidth(stdout)); err != nil {
		return err
	}
	return printChanges(stdout, stderr, r.changes, r.unread, r.stateDir, r.stated)
}

// A checked is what check has found out about one file.
type checked struct {
	path             string
	faults, warnings problem.Faults
	err              error           // why the file could not be inspected
	snap             *build.Snapshot // nil unless it is good
	server           tomlfile.Server
	stated           string           // the instance id that the file gives
	stateDir         string           // where changes for it would be kept
	changes          *overlay.Overlay // that are kept there
	unread           error            // why they could not be read
}

// inspect inspects a file with the rights of --user.
func (c *checkRequest) inspect(ctx context.Context, path string) (r *checked, err error) {
	if c.user == "" {
		return inspect(ctx, path, daemon.DefaultStateDir()), nil
	}
	a, err := privilege.Lookup(c.user)
	if err != nil {
		return nil, err
	}
	stateDir := daemon.DefaultStateDir() // of whoever starts the daemon
	err = privilege.Do(a, func() error {
		r = inspect(ctx, path, stateDir)
		return nil
	})
	var denied *tomlfile.DeniedError
	if err == nil && errors.As(r.err, &denied) {
		r.faults, r.err = problem.Faults{{Place: path, Text: denied.Error(), Hint: denied.Hint}}, nil
	}
	return r, err
}

// inspect inspects a file. Changes made at run time are in stateDir unless the file says otherwise.
func inspect(ctx context.Context, path, stateDir string) *checked {
	found, err := daemon.Inspect(ctx, path)
	r := &checked{path: path, server: found.Server, snap: found.Snapshot, stated: found.ID}
	if !errors.As(err, &r.faults) {
		r.err = err
	}
	if r.snap != nil {
		r.warnings = r.snap.Warnings()
		r.stateDir = cmp.Or(r.server.StateDir, stateDir)
		r.changes, r.unread = overlay.Open(r.stateDir)
	}
	return r
}
