package problem

import "testing"

// Of two names that are as near, the first in the order given; upper case is lower case; a name of one letter is near to nothing.
func TestNearest(t *testing.T) {
	for _, c := range []struct {
		name  string
		known []string
		want  string
	}{
		{"sevre", []string{"check", "serve", "set"}, "serve"},
		{"HttpTokens", []string{"http-endpoint", "http-tokens"}, "http-tokens"},
		{"name", []string{"Name", "Names"}, "Name"},
		{"ab", []string{"aa", "bb"}, "aa"},
		{"a", []string{"b"}, ""},
		{"frobnicate", []string{"check", "serve"}, ""},
		{"", []string{"check"}, ""},
	} {
		if got := Nearest(c.name, c.known); got != c.want {
			t.Errorf("%q: %q, want %q", c.name, got, c.want)
		}
	}
}
