package tomlfile

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// userData decodes user-data in one of its three forms. Empty user-data counts as none.
func (d *decoder) userData(top table) {
	var given []node
	for _, n := range top.children() {
		if slices.Contains(userDataKeys, n.name) {
			given = append(given, n)
		}
	}
	for _, n := range given[min(1, len(given)):] {
		n.fault("user-data is given twice", fmt.Sprintf("keep this or %s of line %d", given[0].name, given[0].line()))
	}
	for _, n := range given {
		data, mtime, ok := n.userData()
		if !ok || len(data) == 0 {
			continue
		}
		if len(data) > ec2.MaxUserData {
			n.fault(fmt.Sprintf("user-data of %d bytes: EC2 takes at most %d", len(data), ec2.MaxUserData), "")
			continue
		}
		d.setLeaf(ec2.UserData, tree.Value{Bytes: data, Mtime: mtime, Origin: n.origin()})
	}
}

func (n node) userData() (data []byte, mtime time.Time, ok bool) {
	if n.name == "user-data-file" {
		return n.contents(ec2.MaxUserData)
	}
	text, ok := n.text()
	if !ok || n.name == ec2.UserData {
		return []byte(text), n.d.mtime, ok
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		n.fault("not base64", "standard alphabet with padding, as base64(1) prints it")
	}
	return data, n.d.mtime, err == nil
}

var accountID = regexp.MustCompile(`^[0-9]{12}$`)

// instance decodes [instance].
func (d *decoder) instance(t table) {
	t.refuseUnknown("instance")
	settings := map[string]tree.Value{}
	enum := func(name string, allowed ...string) {
		if n, ok := t.child(name); ok {
			if s, ok := n.oneOf(allowed...); ok {
				settings[name] = n.states(s)
			}
		}
	}
	enum("platform", "ec2", "snowball")
	enum("architecture", "x86_64", "arm64", "i386", "x86_64_mac", "arm64_mac")
	enum("hostname-type", "ip-name", "resource-name")
	enum("imds-support", "v2.0")
	if n, ok := t.child("account-id"); ok {
		if s, ok := n.text(); ok && !accountID.MatchString(s) {
			n.fault("must be 12 digits", "")
		} else if ok {
			settings["account-id"] = n.states(s)
		}
	}
	if n, ok := t.child("launch-time"); ok {
		if at, ok := n.time(); ok {
			settings["launch-time"] = n.states(at.Format(time.RFC3339))
		}
	}
	if n, ok := t.child("versions"); ok {
		if list, ok := n.versions(); ok {
			settings["versions"] = n.states(strings.Join(list, "\n"))
		}
	}
	for _, name := range []string{"kernel-id", "ramdisk-id"} {
		if n, ok := t.child(name); ok {
			if s, ok := n.text(); ok && !oneLine(s) {
				n.fault("must be one line", "")
			} else if ok {
				settings[name] = n.states(s)
			}
		}
	}
	for _, name := range []string{"billing-products", "marketplace-product-codes"} {
		if n, ok := t.child(name); ok {
			codes, ok := n.texts(func(code string) (string, string) {
				if !oneLine(code) {
					return "must be one line", ""
				}
				return "", ""
			})
			if ok && len(codes) > 0 {
				settings[name] = n.states(strings.Join(codes, "\n"))
			}
		}
	}
	d.file.Fragment.Instance = settings
}

func oneLine(s string) bool { return s != "" && !strings.ContainsAny(s, "\r\n\x00") }

// versions returns the EC2 versions in the array n, sorted. Unquoted 1.0 and dates are accepted too.
func (n node) versions() ([]string, bool) {
	elems, ok := n.list()
	if ok && len(elems) == 0 {
		n.fault("holds no version", `leave it out to offer all of EC2's, or name some: ["1.0", "2021-03-23"]`)
		return nil, false
	}
	var versions []string
	for _, e := range elems {
		v, isScalar := e.scalar()
		if !isScalar {
			ok = false
			continue
		}
		_, err := time.Parse(time.DateOnly, v)
		switch {
		case v != "1.0" && err != nil:
			e.fault("not an EC2 version", `a version is "1.0" or a date such as "2021-03-23"`)
			ok = false
		case slices.Contains(versions, v):
			e.fault("given twice", "")
			ok = false
		}
		versions = append(versions, v)
	}
	slices.Sort(versions)
	return versions, ok
}

// refuseDotted makes a fault of each value in n, a table that an unquoted dot in a name of t has made.
func (n node) refuseDotted(t table, name string) {
	sub, isTable := n.value.(map[string]any)
	if !isTable {
		n.fault("must be a single value", "")
		return
	}
	children := table{n, sub}.children()
	if len(children) == 0 {
		n.fault("a table inside ["+t.key+"]", "quote keys that hold a dot")
	}
	for _, c := range children {
		dotted := name + "." + c.name
		if _, deeper := c.value.(map[string]any); deeper {
			c.refuseDotted(t, dotted)
			continue
		}
		c.fault("a table inside ["+t.key+"]", "quote keys that hold a dot: "+strconv.Quote(dotted))
	}
}

// publicKeys decodes [public-keys], in the order of the file.
func (d *decoder) publicKeys(t table) {
	for _, n := range t.children() {
		if n.misplacedUserData(t) {
			continue
		}
		if _, ok := n.value.(map[string]any); ok {
			n.refuseDotted(t, n.name)
			continue
		}
		if n.name == "" || strings.ContainsAny(n.name, "/\n\x00") {
			n.fault("the name of a key pair must not be empty or contain /, newline or NUL", "")
			continue
		}
		line, ok := n.text()
		if ok && !isPublicKey(line) {
			n.fault("not an OpenSSH public key", `one line such as "ssh-ed25519 AAAA… name", as in authorized_keys`)
			ok = false
		}
		if ok {
			d.file.Fragment.PublicKeys = append(d.file.Fragment.PublicKeys, build.PublicKey{Name: n.name, Key: n.states(line)})
		}
	}
}

func isPublicKey(line string) bool {
	line = strings.TrimSuffix(line, "\n")
	kind, rest, _ := strings.Cut(line, " ")
	known := strings.HasPrefix(kind, "ssh-") || strings.HasPrefix(kind, "ecdsa-") || strings.HasPrefix(kind, "sk-")
	return known && strings.TrimSpace(rest) != "" && !strings.ContainsAny(line, "\r\n\x00")
}

// tags decodes [tags].
func (d *decoder) tags(t table) {
	tags := map[string]tree.Value{}
	for _, n := range t.children() {
		switch n.value.(type) {
		case string, int64, bool:
		case map[string]any:
			n.refuseDotted(t, n.name)
			continue
		default:
			n.fault("a tag's value must be a string", "put it in quotes")
			continue
		}
		if n.name == "" || strings.ContainsAny(n.name, "\n\x00") {
			n.fault("a tag key must not be empty or contain newline or NUL", "")
			continue
		}
		if slices.Contains(userDataKeys, n.name) {
			n.warn(n.name+" is inside [tags] and is a tag", "move it above the first table header if it is the instance's user-data")
		}
		text, _ := n.scalar()
		tags[n.name] = n.states(text)
	}
	d.file.Fragment.Tags = tags
}

// accountDefaults decodes [account-defaults].
func (d *decoder) accountDefaults(t table) {
	t.refuseUnknown("account-defaults")
	d.file.Fragment.AccountDefaults = t.optionValues(ec2.AccountDefaultNames(), ec2.CheckAccountDefault)
}

// optionValues returns the options in t by name, as text, after check accepted them.
func (t table) optionValues(names []string, check func(name, value string) error) map[string]tree.Value {
	values := map[string]tree.Value{}
	for _, name := range names {
		n, ok := t.child(name)
		if !ok {
			continue
		}
		if _, isInt := n.value.(int64); name == ec2.OptionHopLimit && !isInt {
			n.fault("must be a whole number without quotes", "")
			continue
		}
		var text string
		if name == ec2.OptionHopLimit {
			text, ok = n.scalar()
		} else {
			text, ok = n.text()
		}
		if !ok {
			continue
		}
		if err := check(name, text); err != nil {
			n.fault(err.Error(), "")
			continue
		}
		values[name] = n.states(text)
	}
	return values
}

// options decodes [metadata-options].
func (d *decoder) options(t table) {
	t.refuseUnknown("metadata-options")
	var scratch build.Options
	d.file.Fragment.Options = t.optionValues(ec2.OptionNames(), scratch.Set)
	if n, ok := t.child("lock"); ok {
		lock, ok := n.texts(func(name string) (string, string) {
			if slices.Contains(ec2.OptionNames(), name) {
				return "", ""
			}
			if near := problem.Nearest(name, ec2.OptionNames()); near != "" {
				return "unknown option", "did you mean " + near + "?"
			}
			return "unknown option", "the options are " + strings.Join(ec2.OptionNames(), ", ")
		})
		if ok {
			d.file.Fragment.Lock = lock
		}
	}
}
