package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// explain prints the value at a path that the user has typed, what it follows from, and the source of the rule:
//
//	hostname = ip-10-0-12-34.eu-west-1.compute.internal
//	hostname ← local-ipv4 (web-1.toml:7), placement/region ← placement/availability-zone (web-1.toml:9)
//	see EC2 user guide, "Instance hostname types"
func (r *checked) explain(w io.Writer, typed string) error {
	key, value, err := r.valueAt(typed)
	if err != nil {
		return err
	}
	chain, _ := r.snap.Explain(key)
	name := strings.TrimPrefix(key, ec2.MetaData+"/")
	fmt.Fprintf(w, "%s = %s\n%s\n", problem.Printable(name), value, problem.Printable(chain))
	if fact := r.snap.Fact(key); fact != "" {
		fmt.Fprintf(w, "see %s\n", fact)
	}
	return nil
}

// valueAt returns the key that a user means by a path, and its value as check prints it.
func (r *checked) valueAt(typed string) (key, value string, err error) {
	for _, s := range r.snap.Settings() {
		if s.Key == typed {
			return s.Key, short(s.Value), nil
		}
	}
	key, err = ec2.InEveryVersion(typed)
	if err != nil {
		return "", "", problem.Usage("leave the version out: --explain meta-data/hostname", fmt.Errorf("--explain %s: %w", problem.Printable(typed), err))
	}
	v, ok := r.snap.Find("/" + tree.Latest + "/" + key)
	switch {
	case !ok:
		hint := ""
		if near := ec2.NearestPath(key); near != "" {
			hint = didYouMean(shortPath("/" + tree.Latest + "/" + near))
		}
		return "", "", problem.No(hint, fmt.Errorf("%s: there is no %s", problem.Printable(r.path), problem.Printable(typed)))
	case v.IsDir():
		return "", "", problem.No("name a value below it", fmt.Errorf("%s: %s is a directory", problem.Printable(r.path), problem.Printable(typed)))
	case v.Secret():
		return key, mask, nil
	}
	return key, short(string(v.Bytes())), nil
}
