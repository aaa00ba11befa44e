package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
)

// Bounds of a walk: what is walked comes from outside.
const (
	maxTreeDepth   = 32
	maxTreeEntries = 100_000
	treeColumns    = 80 // width of a line, in characters
)

func newTreeCommand(out io.Writer) *cobra.Command {
	var flags clientFlags
	walk := treeWalk{out: out}
	cmd := &cobra.Command{
		Use:   "tree [PATH]",
		Short: "Print a directory of an instance metadata service with all below it",
		Long: `tree walks an instance metadata service from PATH (default: /latest/meta-data/) and prints one name a
line, a directory with a slash and what it holds below it, a value with its first line, cut to 80
columns. PATH and the service are found as by get, and one session token serves the whole walk.

Credentials and user data print as ` + mask + ` unless --secrets is given. What the service lists and
then does not have prints as ` + notThere + `; user-data, which is always listed, is left out.

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
			c, err := flags.client(cmd.Context())
			if err != nil {
				return err
			}
			walk.client = c
			return walk.run(cmd.Context(), strings.Join(args, ""))
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&walk.values, "values", true, "print values; --values=false prints names only")
	cmd.Flags().BoolVar(&walk.full, "full", false, "print values whole, not cut")
	cmd.Flags().BoolVar(&walk.secrets, "secrets", false, "print credentials and user data too")
	return cmd
}

// notThere is printed for a name that is listed and is 404.
const notThere = "[listed, but not there]"

// A treeWalk prints what is below a path.
type treeWalk struct {
	client  *client
	out     io.Writer
	values  bool
	full    bool
	secrets bool
	entries int // printed so far
}

// A treePath is a path as its names, "latest", "meta-data", …; nil is "/".
type treePath []string

func (p treePath) path(dir bool) string {
	path := "/" + strings.Join(p, "/")
	if dir && len(p) > 0 {
		path += "/"
	}
	return path
}

func (p treePath) child(name string) treePath { return append(p[:len(p):len(p)], name) }

// secret reports whether the value at p is nobody else's business.
func (p treePath) secret() bool { return len(p) > 1 && ec2.IsSecret(strings.Join(p[1:], "/")) }

// run prints what is below a path as somebody types it.
func (w *treeWalk) run(ctx context.Context, typed string) error {
	path := ec2.Absolute(typed)
	p := namesOf(path)
	dir, err := w.isDir(ctx, p, strings.HasSuffix(path, "/"))
	if err == nil && dir {
		err = w.directory(ctx, p, p.path(true), "")
	} else if err == nil {
		err = w.leaf(ctx, p, p.path(false), "")
	}
	if errors.Is(err, errNotFound) {
		return w.client.noSuch(ctx, typed, path)
	}
	return err
}

// isDir reports whether p is a directory: the listing above knows. What is not listed there is one if
// guess says so.
func (w *treeWalk) isDir(ctx context.Context, p treePath, guess bool) (bool, error) {
	if len(p) <= 2 {
		return len(p) < 2 || p[1] != ec2.UserData, nil
	}
	above := p[:len(p)-1]
	body, err := w.client.get(ctx, above.path(true))
	if errors.Is(err, errNotFound) {
		return guess, nil
	}
	if err != nil {
		return false, err
	}
	entries, err := parseListing(above, string(body))
	for _, e := range entries {
		if e.name == p[len(p)-1] {
			return e.dir, nil
		}
	}
	return guess, err
}

// directory prints the directory at p, called name, and all below it. The error is errNotFound if p
// is not there, before anything is printed.
func (w *treeWalk) directory(ctx context.Context, p treePath, name, indent string) error {
	if len(p) > maxTreeDepth {
		return fmt.Errorf("%s: more than %d levels deep", printable(p.path(true)), maxTreeDepth)
	}
	body, err := w.client.get(ctx, p.path(true))
	if err != nil {
		return err
	}
	entries, err := parseListing(p, string(body))
	if err != nil {
		return err
	}
	if err := w.print(indent, name, ""); err != nil {
		return err
	}
	indent += "  "
	for _, e := range entries {
		child, name := p.child(e.name), e.name
		if e.dir {
			name += e.label()
			err = w.directory(ctx, child, name, indent)
		} else {
			err = w.leaf(ctx, child, name, indent)
		}
		if errors.Is(err, errNotFound) {
			if len(child) == 2 && e.name == ec2.UserData {
				continue
			}
			err = w.print(indent, name, notThere)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leaf prints the value at p. Of user-data at least whether it exists has to be asked: it is listed
// in any case.
func (w *treeWalk) leaf(ctx context.Context, p treePath, name, indent string) error {
	hidden := p.secret() && !w.secrets
	isUserData := len(p) == 2 && p[1] == ec2.UserData
	var body []byte
	if isUserData || w.values && !hidden {
		var err error
		if body, err = w.client.get(ctx, p.path(false)); err != nil {
			return err
		}
	}
	switch {
	case !w.values:
		return w.print(indent, name, "")
	case hidden:
		return w.print(indent, name, mask)
	}
	return w.printValue(indent, name, string(body))
}

// printValue prints the value of a leaf: its first line, or all of them with what follows below the name.
func (w *treeWalk) printValue(indent, name, value string) error {
	first, rest, more := strings.Cut(strings.TrimSuffix(value, "\n"), "\n")
	if !w.full {
		if more {
			first += " …"
		}
		return w.print(indent, name, first)
	}
	if err := w.print(indent, name, first); err != nil || !more {
		return err
	}
	for line := range strings.SplitSeq(rest, "\n") {
		if _, err := fmt.Fprintf(w.out, "%s  %s\n", indent, printable(line)); err != nil {
			return err
		}
	}
	return nil
}

// print prints the line of one entry.
func (w *treeWalk) print(indent, name, value string) error {
	if w.entries++; w.entries > maxTreeEntries {
		return fmt.Errorf("more than %d names: walk a part of the tree", maxTreeEntries)
	}
	line := indent + printable(name)
	if value != "" {
		line += ": " + printable(value)
	}
	if !w.full && utf8.RuneCountInString(line) > treeColumns {
		line = string([]rune(line)[:treeColumns-1]) + "…"
	}
	_, err := fmt.Fprintln(w.out, line)
	return err
}

// A listed is one line of a listing.
type listed struct {
	name string // that can be opened
	dir  bool
	key  string // of public-keys: the name of the key
}

// label is what follows the name of a directory.
func (e listed) label() string {
	if e.key != "" {
		return "/ (" + e.key + ")"
	}
	return "/"
}

var numberedKey = regexp.MustCompile(`^([0-9]+)=(.*)$`)

// parseListing reads the listing of the directory at p. A slash marks a directory, save for "/" and
// "/VERSION", where all but user-data are directories, and for public-keys, where "0=name" is the
// directory 0. A name that could lead elsewhere, or plays with the terminal, is refused.
func parseListing(p treePath, body string) ([]listed, error) {
	var entries []listed
	isPublicKeys := len(p) == 3 && p[1] == "meta-data" && p[2] == "public-keys"
	for line := range strings.SplitSeq(body, "\n") {
		if line == "" {
			continue
		}
		name, dir := strings.CutSuffix(line, "/")
		e := listed{name: name, dir: dir || len(p) == 0 || len(p) == 1 && name != ec2.UserData}
		if m := numberedKey.FindStringSubmatch(name); isPublicKeys && m != nil {
			e = listed{name: m[1], dir: true, key: m[2]}
		}
		bad := strings.Contains(line[:len(name)], "/") || strings.ContainsFunc(line, unicode.IsControl) || !utf8.ValidString(line)
		if bad || e.name == "" || e.name == "." || e.name == ".." {
			return entries, problem.Failed(hintStranger,
				fmt.Errorf("the listing of %s holds %.60q, which cannot be a name", printable(p.path(true)), line))
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// printable is s with everything escaped that a terminal does not show as a character.
func printable(s string) string {
	var b strings.Builder
	for i, r := range s {
		size := utf8.RuneLen(r)
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
			size = 1 // a byte that is no UTF-8
		} else if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.Quote(s[i : i+size])
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}
