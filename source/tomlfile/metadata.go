package tomlfile

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	maxNameBytes  = 255 // NAME_MAX: the FUSE door cannot show a longer name
	interfacesDir = ec2.MetaData + "/network/interfaces/macs"
)

// setLeaf states the value at a path of the tree.
func (d *decoder) setLeaf(path string, v tree.Value) {
	if d.file.Fragment.Leaves == nil {
		d.file.Fragment.Leaves = map[string]tree.Value{}
	}
	d.file.Fragment.Leaves[path] = v
}

// directory decodes a table as the directory at path, and everything below it.
func (d *decoder) directory(t table, path string) {
	if path == interfacesDir {
		d.interfaces(t)
		return
	}
	for _, n := range t.children() {
		switch {
		case n.refuseName():
		case path == ec2.MetaData && (n.name == "public-keys" || n.name == "tags"):
			n.fault("has a table of its own", "put it into ["+n.name+"]")
		case (path == ec2.MetaData || path == ec2.Dynamic) && n.misplacedUserData(t):
		default:
			if slices.Contains(userDataKeys, n.name) {
				n.warn(n.name+" is inside ["+t.key+"] and is a leaf there",
					"move it above the first table header if it is the instance's user-data")
			}
			d.entry(n, path+"/"+n.name)
		}
	}
}

// entry decodes n as the directory or leaf at path.
func (d *decoder) entry(n node, path string) {
	if example := ec2.DocumentAt(path); example != "" && n.holdsTables() {
		n.fault("EC2 has one JSON document here, and no table", "write it as text: "+n.name+" = '''"+example+"'''")
		return
	}
	switch v := n.value.(type) {
	case map[string]any:
		d.directory(table{n, v}, path)
	case []map[string]any:
		n.fault("the tree cannot hold an array of tables", "a directory is a plain table: ["+n.key+"]")
	case []any:
		if lines, ok := n.lines(v); ok {
			d.setLeaf(path, n.states(strings.Join(lines, "\n")))
		}
	default:
		if text, ok := n.scalar(); ok {
			d.setLeaf(path, n.states(text))
		}
	}
}

// holdsTables reports whether n is a table, or an array of tables.
func (n node) holdsTables() bool {
	isTable := func(v any) bool { _, ok := v.(map[string]any); return ok }
	switch v := n.value.(type) {
	case map[string]any, []map[string]any:
		return true
	case []any:
		return slices.ContainsFunc(v, isTable)
	}
	return false
}

// lines returns the elements of an array as plain text.
func (n node) lines(values []any) (lines []string, ok bool) {
	ok = true
	for i, v := range values {
		e := node{d: n.d, place: n.elem(i), name: n.name, value: v}
		switch v.(type) {
		case []any, map[string]any, []map[string]any:
			e.fault("the tree cannot hold an array or a table inside an array", "an array is one value a line; a directory is a table")
			ok = false
			continue
		}
		line, isScalar := e.scalar()
		ok = ok && isScalar
		lines = append(lines, line)
	}
	return lines, ok
}

// refuseName makes a fault of a key that cannot be the name of a file, and reports whether it did.
func (n node) refuseName() bool {
	text := ""
	switch {
	case n.name == "" || n.name == "." || n.name == "..":
		text = "a name in the tree must not be empty, . or .."
	case strings.ContainsAny(n.name, "/\n\x00"):
		text = "a name in the tree must not contain /, newline or NUL"
	case len(n.name) > maxNameBytes:
		text = fmt.Sprintf("a name in the tree must not be longer than %d bytes", maxNameBytes)
	default:
		return false
	}
	hint := ""
	if strings.Contains(n.name, "/") {
		hint = "write a path with dots, or as a table of its own"
	}
	n.fault(text, hint)
	return true
}

var colonMAC = regexp.MustCompile(`^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$`)

// interfaces decodes network/interfaces/macs. Its keys are MAC addresses, which are in lower case in the tree.
func (d *decoder) interfaces(t table) {
	lines := map[string]int{}
	for _, n := range t.children() {
		if !colonMAC.MatchString(n.name) {
			example := "06:2b:3c:4d:5e:6f"
			if mac, err := net.ParseMAC(n.name); err == nil && len(mac) == 6 {
				example = mac.String()
			}
			n.fault("not a MAC address of six bytes with colons", `write it as "`+example+`"`)
			continue
		}
		mac := strings.ToLower(n.name)
		if line, ok := lines[mac]; ok {
			n.fault("the same MAC address twice", fmt.Sprintf("it is already on line %d", line))
			continue
		}
		lines[mac] = n.line()
		if iface, ok := n.table(); ok {
			d.directory(iface, interfacesDir+"/"+mac)
		}
	}
}
