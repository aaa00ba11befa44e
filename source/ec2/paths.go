package ec2

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/tree"
)

// Paths that users type have one grammar everywhere:
//
//	instance-id, iam/info               below /latest/meta-data
//	meta-data/…, dynamic/…, user-data   below /latest
//	/latest/…, /2021-03-23/…, /         as typed; the first slash may be left out

// Names in the tree with rules of their own.
const (
	MetaData = "meta-data"
	Dynamic  = "dynamic"
	UserData = "user-data"
)

// MaxUserData is EC2's limit for user data, in raw bytes.
const MaxUserData = 16 << 10

// TagPath returns the path that shows the tag with this key.
func TagPath(key string) string { return "meta-data/tags/instance/" + key }

var tagKeyPattern = regexp.MustCompile(`^[0-9a-zA-Z\-_+=,.@:]{1,255}$`)

// ValidTagKey reports whether EC2 allows key while the metadata shows tags. EC2 demands a pattern and reserves three names.
func ValidTagKey(key string) bool {
	return tagKeyPattern.MatchString(key) && key != "." && key != ".." && key != "_index"
}

var roots = []string{MetaData, Dynamic, UserData}

// Absolute returns the absolute form of a path that the user typed: "mac" is "/latest/meta-data/mac". Slashes stay as typed.
func Absolute(path string) string {
	first, _, _ := strings.Cut(path, "/")
	switch {
	case strings.HasPrefix(path, "/"):
		return path
	case first == tree.Latest, ValidVersion(first):
		return "/" + path
	case slices.Contains(roots, first):
		return "/" + tree.Latest + "/" + path
	}
	return "/" + tree.Latest + "/" + MetaData + "/" + path
}

// errOneVersion says that a path names a version where only a path for all versions makes sense.
var errOneVersion = errors.New("the path names one version, and a path for all versions is needed")

// InEveryVersion returns a path that the user typed, relative to a version: "mac" and "/latest/meta-data/mac" are
// "meta-data/mac", and "/" and "/latest" are "". The error is [errOneVersion] for a path of a version other than latest.
func InEveryVersion(path string) (string, error) {
	rest := strings.Trim(Absolute(path), "/")
	first, below, _ := strings.Cut(rest, "/")
	switch {
	case first == tree.Latest:
		return strings.Trim(below, "/"), nil
	case rest == "" || slices.Contains(roots, first):
		return rest, nil
	}
	return "", errOneVersion
}
