package source

import (
	"errors"
	"slices"
	"strings"
)

// What people type for a path has one grammar everywhere:
//
//	instance-id, iam/info               below /latest/meta-data
//	meta-data/…, dynamic/…, user-data   below /latest
//	/latest/…, /2021-03-23/…, /         as it stands; the first slash may be left out
//
// What is of neither kind lies below meta-data, where most of it is.

var roots = []string{MetaData, Dynamic, UserData}

// Absolute is the path that somebody means: "mac" is "/latest/meta-data/mac". Slashes stay as they are typed.
func Absolute(path string) string {
	first, _, _ := strings.Cut(path, "/")
	switch {
	case strings.HasPrefix(path, "/"):
		return path
	case first == Latest, ValidVersion(first):
		return "/" + path
	case slices.Contains(roots, first):
		return "/" + Latest + "/" + path
	}
	return "/" + Latest + "/" + MetaData + "/" + path
}

// ErrOneVersion: a path names a version in a place where what is said holds for all.
var ErrOneVersion = errors.New("is of one version, and this holds for every one that has the category")

// InEveryVersion is the path that somebody means, relative to whatever version: "mac" and "/latest/meta-data/mac" are
// "meta-data/mac"; "/" and "/latest" are "". A path of another version than latest is [ErrOneVersion].
func InEveryVersion(path string) (string, error) {
	rest := strings.Trim(Absolute(path), "/")
	first, below, _ := strings.Cut(rest, "/")
	switch {
	case first == Latest:
		return strings.Trim(below, "/"), nil
	case rest == "" || slices.Contains(roots, first):
		return rest, nil
	}
	return "", ErrOneVersion
}
