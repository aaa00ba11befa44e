package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// In CI, on a small and shared machine, bounds are this much wider.
const (
	ciRatio    = 2
	ciDuration = 50 // what competes with six others for processors takes ten times as long
)

// A checks compares measurements with the bounds of a section.
type checks struct {
	ci     bool
	rows   []string
	missed []error
}

// atMost bounds a ratio or a size from above; unit ("×", " MiB") is printed behind the numbers.
func (c *checks) atMost(what string, got, bound float64, unit string) {
	limit := bound
	if c.ci {
		limit *= ciRatio
	}
	c.row(what, fmt.Sprintf("%.2f%s", got, unit), fmt.Sprintf("≤ %.2f%s", limit, unit), got <= limit)
}

// atLeast bounds a ratio from below.
func (c *checks) atLeast(what string, got, bound float64, unit string) {
	limit := bound
	if c.ci {
		limit /= ciRatio
	}
	c.row(what, fmt.Sprintf("%.2f%s", got, unit), fmt.Sprintf("≥ %.2f%s", limit, unit), got >= limit)
}

// within bounds a duration from above.
func (c *checks) within(what string, got, bound time.Duration) {
	if c.ci {
		bound *= ciDuration
	}
	c.row(what, pretty(got), "≤ "+pretty(bound), got <= bound)
}

// exactly asserts a count, in CI as anywhere.
func (c *checks) exactly(what string, got, want uint64) {
	c.row(what, fmt.Sprint(got), fmt.Sprint(want), got == want)
}

// report shows a number that has no bound.
func (c *checks) report(what, got string) { c.row(what, got, "", true) }

func (c *checks) row(what, got, bound string, met bool) {
	if !met {
		c.missed = append(c.missed, fmt.Errorf("missed: %s is %s, not %s", what, got, bound))
		bound += " **missed**"
	}
	c.rows = append(c.rows, fmt.Sprintf("| %s | %s | %s |\n", what, got, bound))
}

// table shows everything that was checked or reported.
func (c *checks) table() string {
	return "| | measured | bound |\n|---|---|---|\n" + strings.Join(c.rows, "")
}

// err is every missed bound, or nil.
func (c *checks) err() error { return errors.Join(c.missed...) }

// median sorts values in place.
func median[T int64 | float64 | time.Duration](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

// pretty prints a duration with three digits.
func pretty(d time.Duration) string {
	switch {
	case d < 10*time.Microsecond:
		return fmt.Sprintf("%d ns", d.Nanoseconds())
	case d < time.Millisecond:
		return fmt.Sprintf("%.3g µs", float64(d)/float64(time.Microsecond))
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%.3g s", d.Seconds())
}
