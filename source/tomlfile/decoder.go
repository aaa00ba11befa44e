package tomlfile

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// A decoder turns one text into a File, and collects the faults.
type decoder struct {
	path             string // as the user gave it; every Place begins with it
	reader           reader
	mtime            time.Time
	index            *lineIndex
	file             *File
	faults, warnings []lineFault
}

type lineFault struct {
	line int
	problem.Fault
}

func (d *decoder) at(line int) string { return fmt.Sprintf("%s:%d", d.path, line) }

func (d *decoder) fault(line int, key, text, hint string) {
	d.faults = append(d.faults, lineFault{line, problem.Fault{Place: d.at(line), Key: key, Text: text, Hint: hint}})
}

// byLine returns faults in the order of their lines.
func byLine(faults []lineFault) problem.Faults {
	slices.SortStableFunc(faults, func(a, b lineFault) int { return cmp.Compare(a.line, b.line) })
	var sorted problem.Faults
	for _, f := range faults {
		sorted = append(sorted, f.Fault)
	}
	return sorted
}

// document decodes the top of the file.
func (d *decoder) document(values map[string]any) {
	top := table{node{d: d, value: values}, values}
	top.refuseUnknown("")
	d.userData(top)
	if t, ok := top.table("instance"); ok {
		d.instance(t)
	}
	for _, root := range []string{ec2.MetaData, ec2.Dynamic} {
		if t, ok := top.table(root); ok {
			d.directory(t, root)
		}
	}
	if t, ok := top.table("public-keys"); ok {
		d.publicKeys(t)
	}
	if t, ok := top.table("tags"); ok {
		d.tags(t)
	}
	if t, ok := top.table("metadata-options"); ok {
		d.options(t)
	}
	if t, ok := top.table("account-defaults"); ok {
		d.accountDefaults(t)
	}
	if t, ok := top.table("credentials"); ok {
		d.credentials(t)
	}
	if t, ok := top.table("identity-credentials"); ok {
		d.file.Fragment.IdentityRole = d.role("", t)
	}
	if n, ok := top.child("access"); ok {
		d.access(n)
	}
	if t, ok := top.table("server"); ok {
		d.server(t)
	}
}

// A node is a value in the file, with its place.
type node struct {
	d *decoder
	place
	name  string // the last segment of its key, unquoted
	value any    // as the parser returns it
}

func (n node) line() int { return n.d.index.line(n.place) }

func (n node) fault(text, hint string) { n.d.fault(n.line(), n.key, text, hint) }

func (n node) warn(text, hint string) {
	f := problem.Fault{Place: n.d.at(n.line()), Key: n.key, Text: text, Hint: hint}
	n.d.warnings = append(n.d.warnings, lineFault{n.line(), f})
}

func (n node) origin() tree.Origin {
	return tree.Origin{Kind: tree.Stated, Place: n.d.at(n.line()), Key: n.key}
}

// states returns text as the value that n states.
func (n node) states(text string) tree.Value {
	return tree.Value{Bytes: []byte(text), Mtime: n.d.mtime, Origin: n.origin()}
}

// text returns n's string. Any other value is a fault.
func (n node) text() (string, bool) {
	s, ok := n.value.(string)
	if !ok {
		n.fault("must be a string", "put it in quotes")
	}
	return s, ok
}

// oneOf returns n's string. It is a fault if it is not one of allowed.
func (n node) oneOf(allowed ...string) (string, bool) {
	s, ok := n.text()
	if ok && !slices.Contains(allowed, s) {
		n.fault("unknown value", "specify "+alternatives(allowed))
		return "", false
	}
	return s, ok
}

// alternatives returns `"a", "b" or "c"`.
func alternatives(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = strconv.Quote(name)
	}
	if last := len(quoted) - 1; last > 0 {
		return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
	}
	return strings.Join(quoted, "")
}

// list returns the elements of n's array. Any other value is a fault.
func (n node) list() ([]node, bool) {
	values, ok := n.value.([]any)
	if !ok {
		n.fault("must be an array", "put it in brackets: [ … ]")
		return nil, false
	}
	nodes := make([]node, len(values))
	for i, v := range values {
		nodes[i] = node{d: n.d, place: n.elem(i), name: n.name, value: v}
	}
	return nodes, true
}

// texts returns the strings of n's array; not nil for an empty array. check returns what is wrong with a string ("" if
// nothing is) and a hint. A string that is there twice is a fault too.
func (n node) texts(check func(string) (text, hint string)) ([]string, bool) {
	elems, ok := n.list()
	if !ok {
		return nil, false
	}
	texts := make([]string, 0, len(elems))
	for _, e := range elems {
		s, isText := e.text()
		if !isText {
			ok = false
			continue
		}
		text, hint := check(s)
		if text == "" && slices.Contains(texts, s) {
			text = "given twice"
		}
		if text != "" {
			e.fault(text, hint)
			ok = false
		}
		texts = append(texts, s)
	}
	return texts, ok
}

// scalar returns n's value as plain text. A table or an array is a fault.
func (n node) scalar() (string, bool) {
	switch v := n.value.(type) {
	case string:
		return v, true
	case int64:
		return strconv.FormatInt(v, 10), true
	case bool:
		return strconv.FormatBool(v), true
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			n.fault("must be a finite number", "put it in quotes to make it text")
			return "", false
		}
		s := strconv.FormatFloat(v, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s, true
	case time.Time:
		switch v.Location().String() { // the parser's names for times without a zone
		case "date-local":
			return v.Format(time.DateOnly), true
		case "time-local":
			return v.Format("15:04:05.999999999"), true
		}
		t, ok := n.time()
		return t.Format(time.RFC3339Nano), ok
	}
	n.fault("must be a single value", "")
	return "", false
}

// time returns n's point in time, in UTC. n is a TOML datetime or a string as in RFC 3339.
func (n node) time() (time.Time, bool) {
	const example = "2026-01-01T00:00:00Z"
	t, ok := n.value.(time.Time)
	if s, isText := n.value.(string); isText {
		var err error
		t, err = time.Parse(time.RFC3339, s)
		ok = err == nil
	}
	if !ok {
		n.fault("must be a point in time", "write it as "+example)
		return time.Time{}, false
	}
	if strings.HasSuffix(t.Location().String(), "-local") {
		n.fault("the time has no zone", "write it as "+example+", Z being UTC")
		return time.Time{}, false
	}
	if t = t.UTC(); t.Year() < 1 || t.Year() > 9999 {
		n.fault("the year is out of range", "write it as "+example)
		return time.Time{}, false
	}
	return t, true
}

// A table is a node whose value is a table.
type table struct {
	node
	values map[string]any
}

func (t table) child(name string) (node, bool) {
	v, ok := t.values[name]
	return node{d: t.d, place: t.place.child(name), name: name, value: v}, ok
}

// children returns the values in the table, in the order of the file.
func (t table) children() []node {
	nodes := make([]node, 0, len(t.values))
	for name := range t.values {
		n, _ := t.child(name)
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b node) int { return cmp.Compare(t.d.index.order(a.place), t.d.index.order(b.place)) })
	return nodes
}

// table returns the table called name in t, if there is one. Any other value is a fault.
func (t table) table(name string) (table, bool) {
	n, ok := t.child(name)
	if !ok {
		return table{}, false
	}
	return n.table()
}

func (n node) table() (table, bool) {
	values, ok := n.value.(map[string]any)
	if !ok {
		n.fault("must be a table", "write ["+n.key+"] and its keys below")
	}
	return table{n, values}, ok
}
