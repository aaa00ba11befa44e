package build

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/source/ec2"
)

// Where a rule stands in the table does not matter, but for those of one target.
func TestTheOrderOfTheTableDoesNotMatter(t *testing.T) {
	was := ordered
	defer func() { ordered = was }()
	inputs := []*Fragment{least(), everythingAtOnce()}
	var want []string
	for _, f := range inputs {
		want = append(want, leaves(build(t, nil, testEnv, f)))
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		shuffled := slices.Clone(rules)
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		ordered = mustOrder(regroup(shuffled))
		for i, f := range inputs {
			if got := leaves(build(t, nil, testEnv, f)); got != want[i] {
				t.Fatalf("another order of the table gives\n%s\nand not\n%s", got, want[i])
			}
		}
	}
}

// regroup brings the rules of each target into the order of the table, and leaves the targets where they are.
func regroup(shuffled []rule) (out []rule) {
	done := map[string]bool{}
	for _, r := range shuffled {
		if t := node(r.target); !done[t] {
			done[t] = true
			for _, x := range rules {
				if node(x.target) == t {
					out = append(out, x)
				}
			}
		}
	}
	return out
}

// everythingAtOnce states what many rules need, and leaves the rest to them.
func everythingAtOnce() *Fragment {
	const second = macsPath + "06:00:00:00:00:02/"
	return with(least(), "meta-data/public-ipv4", "203.0.113.9", "meta-data/ipv6", "2001:db8::1", "instance.kernel-id", "aki-1",
		second+"local-ipv4s", "10.0.0.7", second+"public-ipv4s", "203.0.113.7", second+"vpc-ipv4-cidr-blocks", "10.0.0.0/16\n10.1.0.0/16",
		"meta-data/spot/instance-action", `{"action": "terminate", "time": "2026-01-05T18:02:00Z"}`)
}

func leaves(s *Snapshot) string {
	var b strings.Builder
	latest, _ := s.View("latest")
	for path, v := range latest.Walk() {
		if !v.IsDir() {
			b.WriteString(path + " = " + string(v.Bytes()) + " " + v.Origin().String() + "\n")
		}
	}
	return b.String()
}

func TestACycleOfRulesIsRefused(t *testing.T) {
	value := constant("x")
	for name, c := range map[string]struct {
		rules []rule
		names []string // of what the error tells; nil: it is none
	}{
		"two":                      {[]rule{{target: "a", needs: []string{"b"}, value: value}, {target: "b", needs: []string{"a"}, value: value}}, []string{"a, b, a"}},
		"itself":                   {[]rule{{target: "a", needs: []string{"a"}, value: value}}, []string{"a, a"}},
		"by what it uses":          {[]rule{{target: "a", uses: []string{"b"}, value: value}, {target: "b", needs: []string{"c"}, value: value}, {target: "c", uses: []string{"a"}, value: value}}, []string{"a, b, c, a"}},
		"by the primary interface": {[]rule{{target: primary + "x", needs: []string{"a"}, value: value}, {target: "a", needs: []string{each + "x"}, value: value}}, []string{"a"}},
		"what is stated is none":   {[]rule{{target: "a", needs: []string{ifStated + "b"}, value: value}, {target: "b", needs: []string{ifStated + "a"}, value: value}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := order(c.rules)
			if (err == nil) != (c.names == nil) {
				t.Fatalf("the error is %v", err)
			}
			for _, want := range c.names {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not name %s", err, want)
				}
			}
		})
	}
}

// Each rule makes one value or several, of keys that exist, and what it needs is something that a source or a rule gives.
func TestTheTableOfRulesAgreesWithItself(t *testing.T) {
	for _, r := range rules {
		if (r.value == nil) == (r.values == nil) || strings.HasSuffix(r.target, "/") != (r.values != nil) {
			t.Errorf("%s: a value and values, or neither, or no directory for several", r.target)
		}
		for _, key := range append(append([]string{r.target}, r.needs...), r.uses...) {
			key = strings.TrimPrefix(key, ifStated)
			path := strings.NewReplacer("macs/*/", "macs/06:00:00:00:00:01/", "macs/@/", "macs/06:00:00:00:00:01/").Replace(key)
			if !strings.HasPrefix(key, "instance.") && !ec2.IsCategory(path) {
				t.Errorf("%s: EC2 has no %s", r.target, path)
			}
		}
	}
}

func TestExplain(t *testing.T) {
	const nic = macsPath + "06:2b:3c:4d:5e:6f/"
	f := with(least(), nic+"public-ipv4s", "203.0.113.9", "option.http-tokens", "required")
	s := build(t, nil, testEnv, f)
	for key, want := range map[string]struct{ chain, fact string }{
		"meta-data/instance-id":               {"instance-id (test.toml:1)", ""},
		"meta-data/placement/region":          {"placement/region ← placement/availability-zone (test.toml:1)", aboutRegions},
		"meta-data/hostname":                  {"hostname ← local-ipv4 (test.toml:1), placement/region ← placement/availability-zone (test.toml:1)", aboutHostnames},
		"meta-data/public-ipv4":               {"public-ipv4 ← network/interfaces/macs/06:2b:3c:4d:5e:6f/public-ipv4s (test.toml:1)", aboutMetadata},
		nic + "public-hostname":               {"network/interfaces/macs/06:2b:3c:4d:5e:6f/public-hostname ← public-hostname ← (public-ipv4 ← network/interfaces/macs/06:2b:3c:4d:5e:6f/public-ipv4s (test.toml:1)), (placement/region ← placement/availability-zone (test.toml:1)), services/domain ← placement/region ← placement/availability-zone (test.toml:1)", aboutMetadata},
		"meta-data/ami-launch-index":          {"ami-launch-index (default)", ""},
		"meta-data/reservation-id":            {"reservation-id (default: from the instance id)", ""},
		"instance.architecture":               {"instance.architecture ← instance-type (test.toml:1)", aboutTypes},
		"metadata-options.http-tokens":        {"metadata-options.http-tokens (test.toml:1)", ""},
		nic + "device-number":                 {"network/interfaces/macs/06:2b:3c:4d:5e:6f/device-number ← mac (test.toml:1)", aboutCards},
		nic + "ipv4-associations/203.0.113.9": {"network/interfaces/macs/06:2b:3c:4d:5e:6f/ipv4-associations/203.0.113.9 ← network/interfaces/macs/06:2b:3c:4d:5e:6f/public-ipv4s (test.toml:1), network/interfaces/macs/06:2b:3c:4d:5e:6f/local-ipv4s ← local-ipv4 (test.toml:1)", aboutMetadata},
	} {
		chain, ok := s.Explain(key)
		if !ok || chain != want.chain {
			t.Errorf("%s: %s\nwant %s", key, chain, want.chain)
		}
		if fact := s.Fact(key); fact != want.fact {
			t.Errorf("%s: the fact is %q, want %q", key, fact, want.fact)
		}
	}
	if chain, ok := s.Explain("meta-data/nothing"); ok {
		t.Errorf("what does not exist: %q", chain)
	}
	if chain, ok := s.Explain("meta-data"); ok {
		t.Errorf("a directory: %q", chain)
	}
}
