package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tomlfile"
	"github.com/imdsfs/imdsfs/source/tree"
)

// settings returns the settings of [server] that the file states, and those of the instance.
func (r *checked) settings() (all []build.Setting) {
	texts := serverTexts(&r.server)
	for key, text := range texts {
		if place, ok := r.server.Places[key]; ok {
			all = append(all, build.Setting{Key: "server." + key, Value: text, Origin: tree.Origin{Kind: tree.Stated, Place: place, Key: "server." + key}})
		}
	}
	slices.SortFunc(all, func(a, b build.Setting) int { return cmp.Compare(a.Key, b.Key) })
	if r.snap != nil {
		all = append(all, r.snap.Settings()...)
	}
	return all
}

// serverTexts returns the keys of [server] and their values, a list with blanks between its elements.
func serverTexts(s *tomlfile.Server) map[string]string {
	list := func(texts []string) string { return strings.Join(texts, " ") }
	return map[string]string{
		"listen": list(s.Listen), "mount": s.Mount, "runtime-dir": s.RuntimeDir, "state-dir": s.StateDir, "sources": list(s.Sources),
		"allow-from": list(s.AllowFrom), "hosts": list(s.Hosts), "log-level": s.LogLevel, "log-format": s.LogFormat, "admin": s.Admin,
		"metrics": s.Metrics, "metrics-allow-from": list(s.MetricsAllowFrom), "vantage": s.Vantage,
		"add-addresses": strconv.FormatBool(s.AddAddresses), "keep": strconv.FormatBool(s.Keep), "user": s.User, "watchdog": s.Watchdog.String(),
	}
}

// A checkRow is a line that check prints: the name, the value, and where the value comes from.
type checkRow [3]string

// A checkSection holds the rows of a table of the file, or of a directory of the tree.
type checkSection struct {
	heading string
	rows    []checkRow
}

// sections returns the settings by their tables, and then the leaves by their directories in a version.
func (r *checked) sections() (all []checkSection) {
	add := func(heading string, row checkRow) {
		if i := slices.IndexFunc(all, func(s checkSection) bool { return s.heading == heading }); i >= 0 {
			all[i].rows = append(all[i].rows, row)
			return
		}
		all = append(all, checkSection{heading, []checkRow{row}})
	}
	for _, s := range r.settings() {
		table, _, _ := strings.Cut(s.Key, ".")
		add("["+table+"]", checkRow{s.Key, short(s.Value), s.Origin.String()})
	}
	latest, _ := r.snap.View(tree.Latest)
	for _, root := range []string{ec2.MetaData, ec2.Dynamic, ec2.UserData} {
		for name, v := range latest.Walk() {
			if first, _, _ := strings.Cut(name, "/"); v.IsDir() || first != root {
				continue
			}
			value := mask
			if !v.Secret() {
				value = short(string(v.Bytes()))
			}
			add("/latest/"+root, checkRow{name, value, v.Origin().String()})
		}
	}
	return all
}

// print prints a line for each setting and each leaf, in at most width columns; 0 is unlimited.
func (r *checked) print(w io.Writer, width int) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: good\n", r.path)
	for _, s := range r.sections() {
		fmt.Fprintf(&b, "\n%s\n", s.heading)
		s.print(&b, width)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// print prints a table. If that is too wide, it prints each row as "name = value", followed by where the value comes from, on
// the same line or below.
func (s checkSection) print(b *strings.Builder, width int) {
	var columns [3]int
	for _, r := range s.rows {
		for i, text := range r {
			columns[i] = max(columns[i], utf8.RuneCountInString(text))
		}
	}
	table := width == 0 || 2+columns[0]+2+columns[1]+2+columns[2] <= width
	for _, r := range s.rows {
		stated := r[0] + " = " + r[1]
		switch room := width - 2; {
		case table:
			fmt.Fprintf(b, "  %-*s  %-*s  %s\n", columns[0], r[0], columns[1], r[1], r[2])
		case utf8.RuneCountInString(stated+r[2])+2 <= room:
			fmt.Fprintf(b, "  %s  %s\n", stated, r[2])
		case utf8.RuneCountInString(stated) <= room:
			fmt.Fprintf(b, "  %s\n", stated)
			wrap(b, "      ", r[2], width)
		default:
			wrap(b, "  ", r[0], width)
			wrap(b, "      = ", r[1], width)
			wrap(b, "      ", r[2], width)
		}
	}
}

// wrap prints prefix and a text in lines of at most width columns. It breaks the text at blanks, or anywhere without one.
func wrap(b *strings.Builder, prefix, text string, width int) {
	rest := []rune(text)
	room := max(width-len(prefix), 8)
	for len(rest) > room {
		end := room
		for i := room; i > room/2; i-- {
			if rest[i] == ' ' {
				end = i
				break
			}
		}
		fmt.Fprintf(b, "%s%s\n", prefix, string(rest[:end]))
		rest = []rune(strings.TrimLeft(string(rest[end:]), " "))
		prefix = strings.Repeat(" ", len(prefix))
	}
	fmt.Fprintf(b, "%s%s\n", prefix, string(rest))
}

// terminalWidth returns the number of columns of the terminal w, by $COLUMNS or the kernel; 0 if w is no terminal.
func terminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	return int(size.Col)
}

const mask = "[secret]"

// short shortens a value to one line of at most 60 characters. It quotes a value that is not plain text.
func short(s string) string {
	const most = 60
	cut := func(s string) string {
		if utf8.RuneCountInString(s) <= most {
			return s
		}
		return string([]rune(s)[:most-1]) + "…"
	}
	plain := s != "" && problem.Printable(s) == s
	if plain {
		return cut(s)
	}
	return cut(fmt.Sprintf("%q", s))
}

// printChanges prints the changes o of a state directory that imdsfs serve would apply to the instance with this id, and
// counts the others. err says why they could not be read.
func printChanges(w, stderr io.Writer, o *overlay.Overlay, err error, stateDir, id string) error {
	if err != nil {
		return say(stderr, "warning", fmt.Sprintf("changes made at run time are not shown: %v", err))
	}
	list := control.ChangesOf(o, id)
	if len(list.Changes)+len(list.Others) == 0 {
		return nil
	}
	fmt.Fprintf(w, "changes made at run time, in %s:\n", problem.Printable(overlay.Path(stateDir)))
	for _, c := range list.Changes {
		fmt.Fprintf(w, "  %s\n", changeText(c))
	}
	for _, other := range list.Others {
		if _, err := fmt.Fprintf(w, "  %s for %s, not in force here\n", changesText(other.Changes), instanceText(other.Instance)); err != nil {
			return err
		}
	}
	return nil
}
