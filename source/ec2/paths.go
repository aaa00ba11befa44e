package ec2

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/tree"
)

// What people type for a path has one grammar everywhere:
//
//	instance-id, iam/info               below /latest/meta-data
//	meta-data/…, dynamic/…, user-data   below /latest
//	/latest/…, /2021-03-23/…, /         as it stands; the first slash may be left out
//
// What is of neither kind lies below meta-data, where most of it is.

// Names in the tree that have rules of their own.
const (
	MetaData = "meta-data"
	Dynamic  = "dynamic"
	UserData = "user-data"
)

// MaxUserData is EC2's limit of user data, in bytes, raw.
const MaxUserData = 16 << 10

// TagPath is where the tag with this key is shown.
func TagPath(key string) string { return "meta-data/tags/instance/" + key }

var tagKeyPattern = regexp.MustCompile(`^[0-9a-zA-Z\-_+=,.@:]{1,255}$`)

// ValidTagKey reports whether EC2 allows key while tags are shown in the metadata: a pattern, and three reserved names.
func ValidTagKey(key string) bool {
	return tagKeyPattern.MatchString(key) && key != "." && key != ".." && key != "_index"
}

var roots = []string{MetaData, Dynamic, UserData}

// Absolute is the path that somebody means: "mac" is "/latest/meta-data/mac". Slashes stay as they are typed.
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

// ErrOneVersion: a path names a version in a place where what is said holds for all.
var ErrOneVersion = errors.New("is of one version, and this holds for every one that has the category")

// InEveryVersion is the path that somebody means, relative to whatever version: "mac" and "/latest/meta-data/mac" are
// "meta-data/mac"; "/" and "/latest" are "". A path of another version than latest is [ErrOneVersion].
func InEveryVersion(path string) (string, error) {
	rest := strings.Trim(Absolute(path), "/")
	first, below, _ := strings.Cut(rest, "/")
	switch {
	case first == tree.Latest:
		return strings.Trim(below, "/"), nil
	case rest == "" || slices.Contains(roots, first):
		return rest, nil
	}
	return "", ErrOneVersion
}
