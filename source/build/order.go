package build

import (
	"fmt"
	"strings"
)

// ordered holds the rules in an order in which every rule comes after those that make what it needs.
var ordered = mustOrder(rules)

func mustOrder(rules []rule) []rule {
	out, err := order(rules)
	if err != nil {
		panic("rules of derivation: " + err.Error())
	}
	return out
}

// order sorts rules: each comes after every rule whose target is among its needs or uses. Rules with the same target keep
// the order of the table; otherwise that order does not matter. Stated values exist before the first rule. The error
// describes a cycle.
func order(rules []rule) ([]rule, error) {
	byTarget := map[string][]rule{}
	var targets []string
	for _, r := range rules {
		t := node(r.target)
		if byTarget[t] == nil {
			targets = append(targets, t)
		}
		byTarget[t] = append(byTarget[t], r)
	}
	const entered, done = 1, 2
	state := map[string]int{}
	var out []rule
	var visit func(target string, way []string) error
	visit = func(target string, way []string) error {
		way = append(way, target)
		switch state[target] {
		case done:
			return nil
		case entered:
			return fmt.Errorf("each of these needs the next: %s", strings.Join(way, ", "))
		}
		state[target] = entered
		for _, r := range byTarget[target] {
			for _, key := range append(append([]string{}, r.needs...), r.uses...) {
				if strings.HasPrefix(key, ifStated) {
					continue
				}
				if err := visit(node(key), way); err != nil {
					return err
				}
			}
		}
		state[target] = done
		out = append(out, byTarget[target]...)
		return nil
	}
	for _, t := range targets {
		if err := visit(t, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// node returns the node of a key in the graph of needs. All network interfaces share one node.
func node(key string) string { return strings.Replace(key, "macs/@/", "macs/*/", 1) }
