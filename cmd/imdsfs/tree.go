package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
)

// treeColumns is the width of a line, in characters.
const treeColumns = 80

func newTreeCommand(out io.Writer) *cobra.Command {
	var flags clientFlags
	tree := treePrinter{out: out}
	cmd := &cobra.Command{
		Use:   "tree [PATH]",
		Short: "Print a directory of an instance metadata service and all below it",
		Long: `tree walks an instance metadata service from PATH (default: /latest/meta-data/) and prints one name a
line: a directory with a slash, and its content below; a value with its first line, cut to 80 columns.
PATH and the service are as for get. One session token is enough for the whole walk.

Credentials and user data print as ` + mask + ` unless you give --secrets. A name that the service
lists but does not have prints as ` + notThere + `, except user-data, which is always listed.

Exit codes: 0 printed; 1 the service does not answer or refuses; 2 wrong usage; 4 no such metadata.`,
		Example: `  imdsfs tree
  imdsfs tree placement
  imdsfs tree --values=false /latest/
  imdsfs tree --endpoint http://127.0.0.1:1338 /2021-03-23/dynamic`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactArgs(1, "one PATH at most")(cmd, args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := flags.client(cmd.Context())
			if err != nil {
				return err
			}
			return tree.run(cmd.Context(), s, strings.Join(args, ""))
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&tree.values, "values", true, "print values; --values=false prints names only")
	cmd.Flags().BoolVar(&tree.full, "full", false, "print values whole, not cut")
	cmd.Flags().BoolVar(&tree.secrets, "secrets", false, "print credentials and user data too")
	return cmd
}

// notThere stands for the value of a name that is listed and answered with 404.
const notThere = "[listed, but not there]"

// A treePrinter prints what is below a path.
type treePrinter struct {
	out     io.Writer
	values  bool
	full    bool
	secrets bool
}

// run prints what is below a path, as the user typed it.
func (t *treePrinter) run(ctx context.Context, s *service, typed string) error {
	path := ec2.Absolute(typed)
	for place, err := range s.client.Walk(ctx, path, t.shows) {
		if errors.Is(err, client.ErrNotFound) {
			return s.noSuch(ctx, typed, path)
		}
		if err != nil {
			return s.explain(err)
		}
		if err := t.place(place); err != nil {
			return err
		}
	}
	return nil
}

// shows reports whether the value at a path is printed.
func (t *treePrinter) shows(p client.Path) bool { return t.values && (t.secrets || !isSecret(p)) }

func isSecret(p client.Path) bool { return len(p) > 1 && ec2.IsSecret(strings.Join(p[1:], "/")) }

// place prints a place: its whole path where the walk begins, and its name below.
func (t *treePrinter) place(p client.Place) error {
	indent := strings.Repeat("  ", p.Depth)
	name := p.Path.String()
	switch {
	case p.Depth > 0:
		name = p.Path[len(p.Path)-1] + label(p)
	case p.Dir:
		name = p.Path.Dir()
	}
	switch {
	case p.Absent:
		return t.print(indent, name, notThere)
	case p.Dir || !t.values:
		return t.print(indent, name, "")
	case !t.shows(p.Path):
		return t.print(indent, name, mask)
	}
	return t.printValue(indent, name, string(p.Value))
}

// label returns what to print after the name of a directory, "" for a value.
func label(p client.Place) string {
	switch {
	case p.Key != "":
		return "/ (" + p.Key + ")"
	case p.Dir:
		return "/"
	}
	return ""
}

// printValue prints the value of a leaf: its first line, or with --full all lines, the further ones below the name.
func (t *treePrinter) printValue(indent, name, value string) error {
	first, rest, more := strings.Cut(strings.TrimSuffix(value, "\n"), "\n")
	if !t.full {
		if more {
			first += " …"
		}
		return t.print(indent, name, first)
	}
	if err := t.print(indent, name, first); err != nil || !more {
		return err
	}
	for line := range strings.SplitSeq(rest, "\n") {
		if _, err := fmt.Fprintf(t.out, "%s  %s\n", indent, problem.Printable(line)); err != nil {
			return err
		}
	}
	return nil
}

// print prints the line of one entry.
func (t *treePrinter) print(indent, name, value string) error {
	line := indent + problem.Printable(name)
	if value != "" {
		line += ": " + problem.Printable(value)
	}
	if !t.full && utf8.RuneCountInString(line) > treeColumns {
		line = string([]rune(line)[:treeColumns-1]) + "…"
	}
	_, err := fmt.Fprintln(t.out, line)
	return err
}
