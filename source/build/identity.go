package build

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// Rolling credentials are valid for credentialLife, and are replaced refreshBefore they expire. EC2 does the same ("IAM
// roles for Amazon EC2": new ones appear at least five minutes before the old expire).
const (
	credentialLife = 6 * time.Hour
	refreshBefore  = 30 * time.Minute
)

// rolling records which rolling credentials were served, and when they were last refreshed.
type rolling struct {
	digest [sha256.Size]byte
	at     time.Time
}

// leases holds the rolling credentials by the name of the role.
type leases struct {
	last    map[string]rolling // of the previous snapshot
	next    map[string]rolling
	refresh time.Time // when the first refresh is due; zero: never
}

// hexOf returns the first n hex digits of SHA-256(kind + ":" + of). So ids that no source states are the same at every
// start.
func hexOf(n int, kind, of string) string {
	sum := sha256.Sum256([]byte(kind + ":" + of))
	return hex.EncodeToString(sum[:])[:n]
}

// object prints a JSON object as the IMDS does: two spaces of indent, a space on both sides of the
// colon, no final newline. Fields come in pairs, key then value; a nil value is null.
func object(fields ...any) string {
	var lines []string
	for i := 0; i < len(fields); i += 2 {
		value := "null"
		switch v := fields[i+1].(type) {
		case string:
			value = quote(v)
		case []string:
			quoted := make([]string, len(v))
			for j, s := range v {
				quoted[j] = quote(s)
			}
			value = "[ " + strings.Join(quoted, ", ") + " ]"
		}
		lines = append(lines, fmt.Sprintf("  %q : %s", fields[i], value))
	}
	return "{\n" + strings.Join(lines, ",\n") + "\n}"
}

// quote returns s as a JSON string. Unlike json.Marshal it leaves <, > and & as they are.
func quote(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(s) // a string cannot fail
	return strings.TrimSuffix(b.String(), "\n")
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// A documentField is a field of the instance identity document and the key of its value.
type documentField struct {
	name, key string
	list      bool // the value has one element a line
	// snowball: Snowball Edge has the field too; the others are null there (developer guide, "Instance identity documents").
	snowball bool
	constant string // the value, for a field without a key
}

// documentFields are alphabetical, except that marketplaceProductCodes follows devpayProductCodes, as captured.
var documentFields = []documentField{
	{name: "accountId", key: accountKey},
	{name: "architecture", key: "instance.architecture"},
	{name: "availabilityZone", key: zoneKey},
	{name: "billingProducts", key: "instance.billing-products", list: true},
	{name: "devpayProductCodes"},
	{name: "marketplaceProductCodes", key: "instance.marketplace-product-codes", list: true},
	{name: "imageId", key: "meta-data/ami-id", snowball: true},
	{name: "instanceId", key: idKey, snowball: true},
	{name: "instanceType", key: typeKey, snowball: true},
	{name: "kernelId", key: "instance.kernel-id"},
	{name: "pendingTime", key: launchKey},
	{name: "privateIp", key: ipKey, snowball: true},
	{name: "ramdiskId", key: "instance.ramdisk-id"},
	{name: "region", key: regionKey},
	{name: "version", constant: "2017-09-30"},
}

// documentKeys returns the keys that the identity document is made from.
func documentKeys() (keys []string) {
	for _, f := range documentFields {
		if f.key != "" {
			keys = append(keys, f.key)
		}
	}
	return keys
}

// identityDocument returns the instance identity document. It follows from the keys that have values.
func identityDocument(s *scope) (string, bool) {
	if id, ok := s.get(idKey); !ok || id == "" {
		return "", false
	}
	var fields []any
	for _, f := range documentFields {
		var v any
		var text string
		var ok bool
		if f.key != "" {
			text, ok = s.get(f.key)
		}
		switch {
		case f.constant != "":
			v = f.constant
		case !ok || s.b.snowball && !f.snowball:
		case f.list:
			v = strings.Split(text, "\n")
		default:
			v = text
		}
		if v != nil && f.key != "" {
			s.from = append(s.from, f.key)
		}
		fields = append(fields, f.name, v)
	}
	return object(fields...), true
}

// roleDocuments returns the documents of the instance's role.
func roleDocuments(s *scope) map[string]value {
	r := s.b.role
	if r == nil {
		return nil
	}
	updated, expires := s.b.lease("role "+r.Name, r)
	account, _ := s.get(accountKey)
	partition, ok := s.get("meta-data/services/partition")
	if !ok {
		partition = "aws"
	}
	arn, id := r.ProfileARN, r.ProfileID
	if arn == "" {
		arn = fmt.Sprintf("arn:%s:iam::%s:instance-profile/%s", partition, account, r.Name)
	}
	if id == "" {
		sum := sha256.Sum256([]byte("instance-profile:" + arn))
		id = "AIPA" + base32.StdEncoding.EncodeToString(sum[:])[:17]
	}
	info := object("Code", "Success", "LastUpdated", stamp(updated), "InstanceProfileArn", arn, "InstanceProfileId", id)
	return map[string]value{
		"info":                           r.document(info, updated, time.Time{}),
		"security-credentials/" + r.Name: r.document(r.credentials(updated, expires), updated, expires),
	}
}

// identityDocuments returns the documents of the role that EC2 itself uses in every instance.
func identityDocuments(s *scope) map[string]value {
	r := s.b.identity
	if r == nil {
		return nil
	}
	updated, expires := s.b.lease("identity", r)
	account, _ := s.get(accountKey)
	info := object("Code", "Success", "LastUpdated", stamp(updated), "AccountId", account)
	return map[string]value{
		"info":                              r.document(info, updated, time.Time{}),
		"security-credentials/ec2-instance": r.document(r.credentials(updated, expires), updated, expires),
	}
}

func (r *Role) credentials(updated, expires time.Time) string {
	return object("Code", "Success", "LastUpdated", stamp(updated), "Type", "AWS-HMAC",
		"AccessKeyId", r.AccessKeyID, "SecretAccessKey", r.SecretAccessKey.Reveal(), "Token", r.Token.Reveal(),
		"Expiration", stamp(expires))
}

// document returns text as a value whose origin is the place that states the role.
func (r *Role) document(text string, mtime, expires time.Time) value {
	return value{Value: tree.Value{Bytes: []byte(text), Mtime: mtime, Origin: r.Origin}, expires: expires}
}

// lease returns when the role's credentials were last refreshed and when they expire. Rolling credentials keep these times
// until a refresh is due or the credentials change.
func (b *builder) lease(name string, r *Role) (updated, expires time.Time) {
	if !r.Expiration.IsZero() {
		if !r.Expiration.After(b.env.Now) {
			b.warn(problem.Fault{Place: r.Origin.Place, Key: r.Origin.Key, Text: "these credentials expired at " + stamp(r.Expiration),
				Hint: "state new ones, or leave expiration out to let them roll"})
		}
		return r.Mtime, r.Expiration
	}
	digest := sha256.Sum256([]byte(r.AccessKeyID + "\x00" + r.SecretAccessKey.Reveal() + "\x00" + r.Token.Reveal()))
	roll, ok := b.leases.last[name]
	due := roll.at.Add(credentialLife - refreshBefore)
	if !ok || roll.digest != digest || !b.env.Now.Before(due) || b.env.Now.Before(roll.at) {
		roll = rolling{digest, b.env.Now.Truncate(time.Second)}
		due = roll.at.Add(credentialLife - refreshBefore)
	}
	b.leases.next[name] = roll
	if b.leases.refresh.IsZero() || due.Before(b.leases.refresh) {
		b.leases.refresh = due
	}
	return roll.at, roll.at.Add(credentialLife)
}
