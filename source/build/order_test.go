package build_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tomlfile"
	"github.com/imdsfs/imdsfs/source/tree"
)

// scattered gives each of the values at random to one of the fragments.
func scattered[V any](random *rand.Rand, values map[string]V, to []*build.Fragment, field func(*build.Fragment) *map[string]V) {
	keys := slices.Sorted(maps.Keys(values))
	random.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys {
		m := field(to[random.IntN(len(to))])
		if *m == nil {
			*m = map[string]V{}
		}
		(*m)[key] = values[key]
	}
}

// scatter is the same input in another form: what one fragment states, several do, in no order.
func scatter(random *rand.Rand, f *build.Fragment) []*build.Fragment {
	parts := make([]*build.Fragment, 1+random.IntN(4))
	for i := range parts {
		parts[i] = &build.Fragment{}
	}
	one := func() *build.Fragment { return parts[random.IntN(len(parts))] }
	scattered(random, f.Leaves, parts, func(f *build.Fragment) *map[string]tree.Value { return &f.Leaves })
	scattered(random, f.Instance, parts, func(f *build.Fragment) *map[string]tree.Value { return &f.Instance })
	scattered(random, f.Options, parts, func(f *build.Fragment) *map[string]tree.Value { return &f.Options })
	scattered(random, f.AccountDefaults, parts, func(f *build.Fragment) *map[string]tree.Value { return &f.AccountDefaults })
	scattered(random, f.Tags, parts, func(f *build.Fragment) *map[string]tree.Value { return &f.Tags })
	one().PublicKeys, one().Role, one().IdentityRole = f.PublicKeys, f.Role, f.IdentityRole
	one().Lock = f.Lock
	one().Access = f.Access
	one().Warnings = f.Warnings
	return parts
}

// picture is all that can be seen of a build: settings, leaves with their times and origins, listings, warnings or
// faults.
func picture(s *build.Snapshot, err error) string {
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, x := range s.Settings() {
		fmt.Fprintln(&b, x.Key, x.Value, x.Origin)
	}
	latest, _ := s.View(tree.Latest)
	for path, v := range latest.Walk() {
		if v.IsDir() {
			fmt.Fprintf(&b, "%s %v %q\n", path, v.Attr(), v.Listing())
		} else {
			fmt.Fprintf(&b, "%s %v %v %v %q\n", path, v.Attr(), v.ModTime(), v.Origin(), v.Bytes())
		}
	}
	return b.String() + s.Warnings().Error()
}

// The same input makes the same tree, in whatever order it is gone through.
func TestTheTreeDependsOnNoOrder(t *testing.T) {
	files, err := filepath.Glob("../../testdata/instances/*.toml")
	faulty, faultyErr := filepath.Glob("../../testdata/instances/faulty/network-*.toml")
	if files = append(files, faulty...); err != nil || faultyErr != nil || len(files) < 9 {
		t.Fatalf("found only %v, %v, %v", files, err, faultyErr)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	env := build.Env{Now: now, LaunchTime: now.Add(-time.Hour)}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, err := tomlfile.New(path, nil).Load(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			want := picture(build.Build(nil, env, f))
			random := rand.New(rand.NewPCG(1, 2))
			for range 200 {
				if got := picture(build.Build(nil, env, scatter(random, f)...)); got != want {
					t.Fatalf("the same input gives\n%s\nand\n%s", want, got)
				}
			}
		})
	}
}
