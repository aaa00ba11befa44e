package build

import (
	"maps"
	"slices"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

// newOptions returns EC2's own defaults.
func newOptions() Options {
	o := Options{Options: ec2.DefaultOptions(), Origins: map[string]tree.Origin{}}
	for _, name := range ec2.OptionNames() {
		o.Origins[name] = tree.Origin{Kind: tree.Default}
	}
	return o
}

// set is Set, and records where the value comes from.
func (o *Options) set(name, value string, origin tree.Origin) error {
	if err := o.Set(name, value); err != nil {
		return err
	}
	o.Origins[name] = origin
	return nil
}

// resolveOptions decides each option by itself, as EC2 does: launch (what the file states) > account default > AMI
// (imds-support) > built-in default. Changes made at run time come last, as far as the lock allows.
func (b *builder) resolveOptions() {
	o := newOptions()
	o.Lock = b.lock
	b.fromAMI(&o)
	b.apply(&o, b.account, b.skipAccountDefault)
	b.apply(&o, b.launch, nil)
	launched := o.Options
	b.apply(&o, b.runTime, func(name string, v tree.Value) bool { return b.skipLocked(&launched, name, v) })
	if b.snowball {
		for _, row := range ec2.OptionTable() {
			if row.Snowball != "" {
				b.must(o.set(row.Name, row.Snowball, tree.Origin{Kind: tree.Default, Place: "fixed on Snowball Edge"}))
			}
		}
	}
	if v := b.account[ec2.TokensEnforced]; string(v.Bytes) == "enabled" && !o.TokensRequired {
		b.fault(faultAt(v, "this account requires tokens, and http-tokens is optional",
			`set http-tokens = "required" under [metadata-options]`))
	}
	b.options = o
}

// apply sets the options in values, except those for which skip returns true.
func (b *builder) apply(o *Options, values map[string]tree.Value, skip func(name string, v tree.Value) bool) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		v := values[name]
		if skip != nil && skip(name, v) {
			continue
		}
		if err := o.set(name, string(v.Bytes), v.Origin); err != nil {
			b.fault(faultAt(v, err.Error(), ""))
		}
	}
}

// fromAMI sets the options that an AMI with support for IMDSv2 only sets.
func (b *builder) fromAMI(o *Options) {
	switch ami := b.instance["imds-support"]; string(ami.Bytes) {
	case "":
	case "v2.0":
		for _, row := range ec2.OptionTable() {
			if row.AMI != "" {
				b.must(o.set(row.Name, row.AMI, tree.Origin{Kind: tree.Derived, From: []string{"instance.imds-support"}}))
			}
		}
	default:
		b.fault(faultAt(ami.Value, "unknown value", `leave it out or set it to "v2.0"`))
	}
}

// must panics on an error. It is for values from the table of options, which are valid.
func (b *builder) must(err error) {
	if err != nil {
		panic(err)
	}
}

// skipAccountDefault skips an invalid account default, which is a fault, and one that states no preference.
func (b *builder) skipAccountDefault(name string, v tree.Value) bool {
	if err := ec2.CheckAccountDefault(name, string(v.Bytes)); err != nil {
		b.fault(faultAt(v, err.Error(), ""))
		return true
	}
	return name == ec2.TokensEnforced || !ec2.OptionCalled(name).HasPreference(string(v.Bytes))
}

// skipLocked skips a value that was set at run time if the option is locked and the value is weaker than at launch.
func (b *builder) skipLocked(launched *ec2.Options, name string, v tree.Value) bool {
	next, row := *launched, ec2.OptionCalled(name)
	if row == nil || row.Set(&next, string(v.Bytes)) != nil || !slices.Contains(b.lock, name) || !row.Weakens(launched, &next) {
		return false
	}
	b.warn(faultAt(v, name+" is locked: "+string(v.Bytes)+", set at run time, is weaker than "+row.Text(launched)+" and is ignored", ""))
	return true
}
