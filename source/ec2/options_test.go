package ec2

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// Every value that a row names is one that the row takes, and rows stand in the order of their names.
func TestTheTableOfOptionsAgreesWithItself(t *testing.T) {
	if !slices.IsSorted(OptionNames()) {
		t.Errorf("the names are not sorted: %v", OptionNames())
	}
	all := DefaultOptions()
	for _, row := range OptionTable() {
		if got := row.Text(&all); got != row.Default {
			t.Errorf("%s: the default is %q, and is set to %q", row.Name, row.Default, got)
		}
		for _, value := range append(row.Values(), row.Default, row.AMI, row.Snowball) {
			var o Options
			if value == "" {
				continue
			}
			if err := row.Set(&o, value); err != nil || row.Text(&o) != value {
				t.Errorf("%s = %s becomes %q: %v", row.Name, value, row.Text(&o), err)
			}
		}
		var o Options
		if err := row.Set(&o, "perhaps"); err == nil || !strings.Contains(err.Error(), row.Allowed()) {
			t.Errorf("%s: a value that is none: %v", row.Name, err)
		}
		if row.Account != (row.NoPreference != "") {
			t.Errorf("%s: an account default %v, and %q for no preference", row.Name, row.Account, row.NoPreference)
		}
		if !strings.EqualFold(strings.ReplaceAll(row.Name, "-", ""), row.API) {
			t.Errorf("%s is %s in EC2's API", row.Name, row.API)
		}
	}
	for _, name := range AccountDefaultNames() {
		if err := CheckAccountDefault(name, "perhaps"); err == nil {
			t.Errorf("%s takes anything", name)
		}
	}
}

func TestWeakens(t *testing.T) {
	for _, c := range []struct {
		name, from, to string
		weaker         bool
	}{
		{OptionHTTPTokens, "required", "optional", true},
		{OptionHTTPTokens, "optional", "required", false},
		{OptionHopLimit, "1", "2", true},
		{OptionHopLimit, "2", "1", false},
		{OptionHTTPEndpoint, "disabled", "enabled", true},
		{OptionHTTPEndpoint, "enabled", "disabled", false},
		{OptionHTTPProtocolIPv6, "disabled", "enabled", true},
		{OptionHTTPProtocolIPv6, "enabled", "disabled", false},
		{OptionInstanceMetadataTags, "disabled", "enabled", true},
		{OptionInstanceMetadataTags, "enabled", "disabled", false},
	} {
		from, to := DefaultOptions(), DefaultOptions()
		if err := errors.Join(from.Set(c.name, c.from), to.Set(c.name, c.to)); err != nil {
			t.Fatal(err)
		}
		if got := OptionCalled(c.name).Weakens(&from, &to); got != c.weaker {
			t.Errorf("%s from %s to %s weakens: %v", c.name, c.from, c.to, got)
		}
		if OptionCalled(c.name).Weakens(&from, &from) {
			t.Errorf("%s = %s is weaker than itself", c.name, c.from)
		}
	}
}
