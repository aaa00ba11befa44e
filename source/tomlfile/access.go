package tomlfile

import (
	"errors"
	"math"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/ec2"
)

// access decodes the rules of [[access]].
func (d *decoder) access(n node) {
	var rules []any
	switch v := n.value.(type) {
	case []map[string]any:
		for _, m := range v {
			rules = append(rules, m)
		}
	case []any: // access = [{ … }]
		rules = v
	default:
		n.fault("must be an array of tables", "write [[access]] above each rule")
		return
	}
	for i, v := range rules {
		rule := node{d: d, place: n.elem(i), name: n.name, value: v}
		if t, ok := rule.table(); ok {
			d.file.Fragment.Access = append(d.file.Fragment.Access, d.accessRule(t))
		}
	}
}

func (d *decoder) accessRule(t table) build.AccessRule {
	t.refuseUnknown("access")
	rule := build.AccessRule{Origin: t.origin()}
	if n, ok := t.child("path"); !ok {
		d.fault(t.line(), t.place.child("path").key, "missing", `path = "/" is everything`)
	} else if path, ok := n.text(); ok {
		rule.Path = n.accessPath(path)
	}
	owner, hasOwner := t.child("owner")
	group, hasGroup := t.child("group")
	mode, hasMode := t.child("mode")
	if hasOwner {
		rule.UID = owner.id("user", func(name string) (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
	}
	if hasGroup {
		rule.GID = group.id("group", func(name string) (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
	}
	if hasMode {
		rule.Mode = mode.mode()
	}
	if !hasOwner && !hasGroup && !hasMode {
		t.fault("the rule changes nothing", "give owner, group or mode")
	}
	return rule
}

// accessPath returns path as an access rule needs it: relative to a version, without slashes at its ends. "" is everything.
func (n node) accessPath(path string) string {
	if path == "" {
		return ""
	}
	rule, err := ec2.InEveryVersion(path)
	if err != nil {
		n.fault("the path leads nowhere", `a rule holds for every version: "iam", "/latest/meta-data/iam" and "meta-data/iam" are the same, "/" is everything`)
		return ""
	}
	if rule == "" {
		return ""
	}
	names := strings.Split(rule, "/")
	if !slices.Contains([]string{ec2.MetaData, ec2.Dynamic, ec2.UserData}, names[0]) {
		n.fault("the path leads nowhere", `below /latest there are meta-data, dynamic and user-data; "/" is everything`)
		return ""
	}
	for _, name := range names {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "\n\x00") {
			n.fault("not a path", "names between single slashes, without . and ..")
			return ""
		}
	}
	return rule
}

// id returns the number of a user or group, which n gives by number or by name.
func (n node) id(kind string, lookup func(string) (string, error)) *uint32 {
	text, isText := n.value.(string)
	number, isInt := n.value.(int64)
	if isInt {
		text = strconv.FormatInt(number, 10)
	}
	if !isText && !isInt || text == "" {
		n.fault("must be the name or number of a "+kind, "")
		return nil
	}
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil && !isInt && strings.Trim(text, "0123456789") != "" {
		var found string
		if found, err = lookup(text); err != nil {
			n.fault(unresolved(kind, err), "create it, or give the number")
			return nil
		}
		id, err = strconv.ParseUint(found, 10, 32)
	}
	if err != nil || id == math.MaxUint32 { // the highest means "none" to the kernel
		n.fault("not the number of a "+kind, "0 to 4294967294")
		return nil
	}
	number32 := uint32(id)
	return &number32
}

func unresolved(kind string, err error) string {
	var noUser user.UnknownUserError
	var noGroup user.UnknownGroupError
	if errors.As(err, &noUser) || errors.As(err, &noGroup) {
		return "this machine has no such " + kind
	}
	return "the " + kind + " cannot be looked up: " + err.Error()
}

// mode returns the mode that n gives in octal. It has only read bits.
func (n node) mode() *uint32 {
	const readable = 0o444
	const example = `read bits in octal and in quotes, such as "0440"`
	text, ok := n.value.(string)
	bits, err := strconv.ParseUint(text, 8, 32)
	if !ok || err != nil {
		n.fault("not a mode", example)
		return nil
	}
	if bits&^readable != 0 {
		n.fault("the mode has more than read bits", example)
		return nil
	}
	mode := uint32(bits)
	return &mode
}
