package tomlfile

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/imdsfs/imdsfs/source/build"
)

const maxSecretBytes = 64 << 10 // of a KEY-file

var roleName = regexp.MustCompile(`^[A-Za-z0-9_+=,.@-]{1,64}$`)

// credentials decodes [credentials.NAME], of which there is exactly one.
func (d *decoder) credentials(t table) {
	var first node
	for _, n := range t.children() {
		values, isTable := n.value.(map[string]any)
		switch {
		case n.misplacedUserData(t):
			continue
		case !isTable && slices.Contains(schema["credentials.NAME"], n.name):
			n.fault("belongs to no role", "name the role in the header: [credentials.NAME]")
			continue
		case !isTable:
			n.fault("must be a table", "a role is a table of its own: [credentials.NAME]")
			continue
		case first.d != nil:
			n.fault("a second role: an instance has exactly one", fmt.Sprintf("keep this or %s of line %d", first.key, first.line()))
			continue
		case !roleName.MatchString(n.name):
			n.fault("not the name of a role", "1 to 64 letters, digits and _+=,.@-")
		}
		if c, ok := (table{n, values}).inner(); ok {
			c.fault("a table inside ["+n.key+"]", "quote a role name that holds a dot: "+strconv.Quote(n.name+"."+c.name))
			continue
		}
		first = n
		d.file.Fragment.Role = d.role(n.name, table{n, values})
	}
	if len(t.values) == 0 {
		t.fault("holds no role", "name it: [credentials.NAME]")
	}
}

// inner returns a table inside t, if there is one.
func (t table) inner() (node, bool) {
	for _, n := range t.children() {
		if _, ok := n.value.(map[string]any); ok {
			return n, true
		}
	}
	return node{}, false
}

// role decodes the keys of a role. Its faults contain no values.
func (d *decoder) role(name string, t table) *build.Role {
	if n, ok := t.child("type"); !ok {
		t.refuseUnknown("credentials.NAME")
		d.fault(t.line(), t.place.child("type").key, "missing", `say where the credentials come from: type = "static"`)
	} else if s, ok := n.text(); ok && slices.Contains([]string{"process", "profile", "assume-role", "upstream"}, s) {
		n.fault("not supported by this version", `it knows type = "static" only`)
		return nil // this version does not know its other keys
	} else {
		t.refuseUnknown("credentials.NAME")
		if ok && s != "static" {
			n.fault("unknown type", `it must be "static"`)
		}
	}
	role := &build.Role{Name: name, Mtime: d.mtime, Origin: t.origin()}
	role.AccessKeyID = t.secret(role, "access-key-id", "AWS SDKs need it")
	role.SecretAccessKey = build.Secret(t.secret(role, "secret-access-key", "AWS SDKs need it"))
	role.Token = build.Secret(t.secret(role, "token", "credentials of a role always have a session token, and AWS SDKs need it"))
	if n, ok := t.child("expiration"); ok {
		role.Expiration, _ = n.time()
	}
	if n, ok := t.child("instance-profile-arn"); ok {
		role.ProfileARN, ok = n.text()
		if ok && (!strings.HasPrefix(role.ProfileARN, "arn:") || !strings.Contains(role.ProfileARN, ":instance-profile/")) {
			n.fault("not the ARN of an instance profile", "arn:aws:iam::123456789012:instance-profile/NAME")
		}
	}
	if n, ok := t.child("instance-profile-id"); ok {
		role.ProfileID, ok = n.text()
		if ok && !isLine(role.ProfileID) {
			n.fault("must be one line of text", "")
		}
	}
	return role
}

// secret returns the text of key, key-file or key-env, of which there must be exactly one. If a file is newer than the
// role's Mtime, that becomes the file's.
func (t table) secret(role *build.Role, key, why string) string {
	var given []node
	for _, n := range t.children() {
		if n.name == key || n.name == key+"-file" || n.name == key+"-env" {
			given = append(given, n)
		}
	}
	if len(given) == 0 {
		t.d.fault(t.line(), t.place.child(key).key, "missing", fmt.Sprintf("give %s, %s-file or %s-env: %s", key, key, key, why))
		return ""
	}
	for _, n := range given[1:] {
		n.fault(key+" is given twice", fmt.Sprintf("keep this or %s of line %d", given[0].name, given[0].line()))
	}
	n := given[0]
	var text string
	var ok bool
	switch n.name {
	case key:
		text, ok = n.text()
	case key + "-env":
		text, ok = n.environment()
	default:
		var data []byte
		var mtime time.Time
		data, mtime, ok = n.contents(maxSecretBytes)
		if text = string(data); strings.HasSuffix(text, "\n") {
			text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
		}
		if mtime.After(role.Mtime) {
			role.Mtime = mtime
		}
	}
	if ok && !isLine(text) {
		n.fault("must be one line of text", "")
	}
	return text
}

// isLine reports whether s is text that is not empty and has no line break or other control character.
func isLine(s string) bool {
	return s != "" && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
