package problem

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// A Fault is one thing that is wrong with the input.
type Fault struct {
	Place string // "web-1.toml:14"; never empty
	Key   string // "meta-data.instance-id"; may be empty
	Text  string // what is wrong; holds no secret
	Hint  string // what to do; may be empty
}

// String returns one line: "web-1.toml:14: instance.platfrom: unknown key (did you mean platform?)".
func (f Fault) String() string {
	s := f.Place
	if f.Key != "" {
		s += ": " + f.Key
	}
	s += ": " + f.Text
	if f.Hint != "" {
		s += " (" + f.Hint + ")"
	}
	return s
}

// Faults are all faults of an input. As an error they print one a line.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, x := range f {
		lines[i] = x.String()
	}
	return strings.Join(lines, "\n")
}

// Sort orders faults by file and line; faults of one line keep their order.
func (f Faults) Sort() {
	position := func(x Fault) (file string, line int) {
		i := strings.LastIndexByte(x.Place, ':')
		if n, err := strconv.Atoi(x.Place[i+1:]); i >= 0 && err == nil {
			return x.Place[:i], n
		}
		return x.Place, 0
	}
	slices.SortStableFunc(f, func(a, b Fault) int {
		fileA, lineA := position(a)
		fileB, lineB := position(b)
		return cmp.Or(strings.Compare(fileA, fileB), cmp.Compare(lineA, lineB))
	})
}

// Err returns f as an error, or nil if there is no fault.
func (f Faults) Err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}
