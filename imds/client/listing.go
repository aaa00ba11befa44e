package client

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
)

// A Path is an absolute path as its names: "latest", "meta-data", "mac"; nil is "/".
type Path []string

// ParsePath splits a path. Empty names are skipped.
func ParsePath(path string) Path {
	return Path(strings.FieldsFunc(path, func(r rune) bool { return r == '/' }))
}

// String is the path as that of a value: "/latest/meta-data/mac".
func (p Path) String() string { return "/" + strings.Join(p, "/") }

// Dir is the path as that of a directory, with a slash at its end.
func (p Path) Dir() string {
	if len(p) == 0 {
		return "/"
	}
	return p.String() + "/"
}

// Child is the path of a name below p. It shares no memory with other children.
func (p Path) Child(name string) Path { return append(p[:len(p):len(p)], name) }

func (p Path) isUserData() bool { return len(p) == 2 && p[1] == ec2.UserData }

// A Listed is one line of a listing.
type Listed struct {
	Name string // that can be opened
	Dir  bool
	Key  string // of public-keys: the name of the key
}

// List reads the listing of the directory at p. With an error that is [ErrBadName] come the names before the bad one.
func (c *Client) List(ctx context.Context, p Path) ([]Listed, error) {
	body, err := c.Get(ctx, p.Dir())
	if err != nil {
		return nil, err
	}
	return parseListing(p, string(body))
}

var numberedKey = regexp.MustCompile(`^([0-9]+)=(.*)$`)

// parseListing reads the listing of the directory at p. A slash marks a directory, except in "/" and "/VERSION", where
// all but user-data are directories, and in public-keys, where "0=name" is the directory 0. The first line that cannot be
// a name ends it.
func parseListing(p Path, body string) ([]Listed, error) {
	var entries []Listed
	isPublicKeys := len(p) == 3 && p[1] == ec2.MetaData && p[2] == "public-keys"
	for line := range strings.SplitSeq(body, "\n") {
		if line == "" {
			continue
		}
		name, dir := strings.CutSuffix(line, "/")
		e := Listed{Name: name, Dir: dir || len(p) == 0 || len(p) == 1 && name != ec2.UserData}
		if m := numberedKey.FindStringSubmatch(name); isPublicKeys && m != nil {
			e = Listed{Name: m[1], Dir: true, Key: m[2]}
		}
		bad := strings.Contains(name, "/") || strings.ContainsFunc(line, unicode.IsControl) || !utf8.ValidString(line)
		if bad || e.Name == "" || e.Name == "." || e.Name == ".." {
			return entries, fmt.Errorf("the listing of %s holds %.60q, %w", problem.Printable(p.Dir()), line, ErrBadName)
		}
		entries = append(entries, e)
	}
	return entries, nil
}
