package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A savedSnapshot is the form in which a snapshot is handed to another process. Fields may be added:
// gob leaves out what one side does not know. Warnings are not in it.
type savedSnapshot struct {
	Top, Root savedNode // Top without its edges, which all lead to Root
	Versions  []string
	Instance  string
	Options   Options
	Snowball  bool
	Settings  []Setting
	Rolled    map[string]savedRolling
	Refresh   time.Time
	Stamp     time.Time
}

type savedNode struct {
	Name        string // of the edge to it
	Dir         bool
	Since       string
	Mtime       time.Time
	Origin      Origin
	Attr        Attr
	Bytes       []byte
	ContentType string
	Secret      bool
	Expires     time.Time
	Numbered    bool
	Label       string
	Edges       []savedNode
}

type savedRolling struct {
	Digest [sha256.Size]byte
	At     time.Time
}

// MarshalBinary turns the snapshot into bytes for [ParseSnapshot]. They hold secrets.
func (s *Snapshot) MarshalBinary() ([]byte, error) {
	saved := savedSnapshot{
		Top: saveNode("", s.top, false), Root: saveNode("", s.root, true), Versions: s.versions, Instance: s.instance, Options: s.options,
		Snowball: s.snowball, Settings: s.settings, Rolled: map[string]savedRolling{}, Refresh: s.refresh, Stamp: s.stamp,
	}
	for name, r := range s.rolled {
		saved.Rolled[name] = savedRolling{r.digest, r.at}
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(&saved); err != nil {
		return nil, fmt.Errorf("encode the tree: %w", err)
	}
	return b.Bytes(), nil
}

func saveNode(name string, n *node, below bool) savedNode {
	saved := savedNode{
		Name: name, Dir: n.dir, Since: n.since, Mtime: n.mtime, Origin: n.origin, Attr: n.attr, Bytes: n.bytes,
		ContentType: n.contentType, Secret: n.secret, Expires: n.expires, Numbered: n.numbered, Label: n.label,
	}
	if below && len(n.edges) > 0 {
		saved.Edges = make([]savedNode, len(n.edges))
		for i, e := range n.edges {
			saved.Edges[i] = saveNode(e.name, e.node, true)
		}
	}
	return saved
}

// ParseSnapshot reads what MarshalBinary made, in this process or in a predecessor. A snapshot that
// [Build] makes after it shares with it what is the same, times included.
func ParseSnapshot(data []byte) (*Snapshot, error) {
	var saved savedSnapshot
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&saved); err != nil {
		return nil, fmt.Errorf("decode the tree: %w", err)
	}
	top, err := saved.Top.node(0)
	if err != nil {
		return nil, err
	}
	root, err := saved.Root.node(0)
	if err != nil {
		return nil, err
	}
	if !top.dir || !root.dir || len(top.edges) > 0 {
		return nil, errors.New("decode the tree: its root is no directory")
	}
	for _, v := range append(slices.Clone(saved.Versions), Latest) {
		top.edges = append(top.edges, edge{v, root})
	}
	slices.SortFunc(top.edges, func(x, y edge) int { return strings.Compare(x.name, y.name) })
	if err := checkEdges(top); err != nil {
		return nil, err
	}
	s := &Snapshot{
		top: top, root: root, versions: saved.Versions, instance: saved.Instance, options: saved.Options, snowball: saved.Snowball,
		settings: saved.Settings, rolled: map[string]rolling{}, refresh: saved.Refresh, stamp: saved.Stamp,
	}
	if s.options.Origins == nil {
		s.options.Origins = map[string]Origin{}
	}
	for name, r := range saved.Rolled {
		s.rolled[name] = rolling{r.Digest, r.At}
	}
	return s, nil
}

// maxDepth bounds the recursion; a path of 4,096 bytes has fewer names.
const maxDepth = 4096

func (saved *savedNode) node(depth int) (*node, error) {
	if depth > maxDepth {
		return nil, errors.New("decode the tree: it is too deep")
	}
	n := &node{
		dir: saved.Dir, since: saved.Since, mtime: saved.Mtime, origin: saved.Origin, attr: saved.Attr, contentType: saved.ContentType,
		secret: saved.Secret, expires: saved.Expires, numbered: saved.Numbered, label: saved.Label,
	}
	if !n.dir {
		if len(saved.Edges) > 0 {
			return nil, errors.New("decode the tree: something is below a file")
		}
		n.bytes, n.digest = saved.Bytes, sha256.Sum256(saved.Bytes)
		return n, nil
	}
	for i := range saved.Edges {
		child, err := saved.Edges[i].node(depth + 1)
		if err != nil {
			return nil, err
		}
		n.edges = append(n.edges, edge{saved.Edges[i].Name, child})
	}
	return n, checkEdges(n)
}

// checkEdges holds what look-ups and the kernel rely on.
func checkEdges(n *node) error {
	for i, e := range n.edges {
		if e.name == "" || e.name == "." || e.name == ".." || strings.ContainsAny(e.name, "/\x00") || i > 0 && n.edges[i-1].name >= e.name {
			return errors.New("decode the tree: a directory's names are not in order, or are none")
		}
	}
	return nil
}
