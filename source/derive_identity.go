package source

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Rolling credentials are given out for credentialLife and replaced refreshBefore their end, as EC2
// does ("IAM roles for Amazon EC2": new ones appear at least five minutes before the old expire).
const (
	credentialLife = 6 * time.Hour
	refreshBefore  = 30 * time.Minute
)

// rolling is when rolling credentials were last refreshed, and which ones they were.
type rolling struct {
	digest [sha256.Size]byte
	at     time.Time
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

// quote is a JSON string; unlike json.Marshal it leaves <, > and & as they are.
func quote(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(s) // a string cannot fail
	return strings.TrimSuffix(b.String(), "\n")
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// deriveDocument makes the instance identity document: alphabetical, except that
// marketplaceProductCodes follows devpayProductCodes, as captured.
func (b *builder) deriveDocument() {
	const key = "dynamic/instance-identity/document"
	var from []string
	field := func(source string) any {
		text, ok := b.text(source)
		if !ok {
			return nil
		}
		from = append(from, source)
		return text
	}
	ec2Only := func(source string) any {
		if b.snowball { // there only instanceId, imageId, privateIp and instanceType are not null
			return nil
		}
		return field(source)
	}
	id, ok := b.text("meta-data/instance-id")
	if !ok || id == "" {
		return
	}
	list := func(source string) any {
		if text, ok := ec2Only(source).(string); ok {
			return strings.Split(text, "\n")
		}
		return nil
	}
	document := object(
		"accountId", ec2Only("instance.account-id"),
		"architecture", ec2Only("instance.architecture"),
		"availabilityZone", ec2Only("meta-data/placement/availability-zone"),
		"billingProducts", list("instance.billing-products"),
		"devpayProductCodes", nil,
		"marketplaceProductCodes", list("instance.marketplace-product-codes"),
		"imageId", field("meta-data/ami-id"),
		"instanceId", field("meta-data/instance-id"),
		"instanceType", field("meta-data/instance-type"),
		"kernelId", ec2Only("instance.kernel-id"),
		"pendingTime", ec2Only("instance.launch-time"),
		"privateIp", field("meta-data/local-ipv4"),
		"ramdiskId", ec2Only("instance.ramdisk-id"),
		"region", ec2Only("meta-data/placement/region"),
		"version", "2017-09-30",
	)
	b.follows(key, document, from...)
}

func (b *builder) deriveRole() {
	if b.role == nil {
		return
	}
	r := b.role
	updated, expires := b.lease("role "+r.Name, r)
	account, _ := b.text("instance.account-id")
	partition, ok := b.text("meta-data/services/partition")
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
	b.fillRole(r, "meta-data/iam/info", updated, time.Time{},
		object("Code", "Success", "LastUpdated", stamp(updated), "InstanceProfileArn", arn, "InstanceProfileId", id))
	b.fillRole(r, "meta-data/iam/security-credentials/"+r.Name, updated, expires, credentials(r, updated, expires))
}

func (b *builder) deriveIdentityCredentials() {
	if b.identity == nil {
		return
	}
	r := b.identity
	updated, expires := b.lease("identity", r)
	account, _ := b.text("instance.account-id")
	b.fillRole(r, "meta-data/identity-credentials/ec2/info", updated, time.Time{},
		object("Code", "Success", "LastUpdated", stamp(updated), "AccountId", account))
	b.fillRole(r, "meta-data/identity-credentials/ec2/security-credentials/ec2-instance", updated, expires, credentials(r, updated, expires))
}

func credentials(r *Role, updated, expires time.Time) string {
	return object("Code", "Success", "LastUpdated", stamp(updated), "Type", "AWS-HMAC",
		"AccessKeyId", r.AccessKeyID, "SecretAccessKey", r.SecretAccessKey.Reveal(), "Token", r.Token.Reveal(),
		"Expiration", stamp(expires))
}

func (b *builder) fillRole(r *Role, path string, mtime, expires time.Time, text string) {
	if _, ok := b.leaves[path]; ok || b.isRemoved(path) {
		return
	}
	b.leaves[path] = leaf{Value{Bytes: []byte(text), Mtime: mtime, Origin: r.Origin}, expires}
}

// lease tells when the role's credentials were last refreshed and when they end. Rolling ones keep
// their times until they are due, as long as they are the same credentials.
func (b *builder) lease(name string, r *Role) (updated, expires time.Time) {
	if !r.Expiration.IsZero() {
		if !r.Expiration.After(b.env.Now) {
			b.warn(Fault{Place: r.Origin.Place, Key: r.Origin.Key, Text: "these credentials expired at " + stamp(r.Expiration),
				Hint: "state new ones, or leave expiration out to have them roll"})
		}
		return r.Mtime, r.Expiration
	}
	digest := sha256.Sum256([]byte(r.AccessKeyID + "\x00" + r.SecretAccessKey.Reveal() + "\x00" + r.Token.Reveal()))
	roll, ok := b.rolled[name]
	due := roll.at.Add(credentialLife - refreshBefore)
	if !ok || roll.digest != digest || !b.env.Now.Before(due) || b.env.Now.Before(roll.at) {
		roll = rolling{digest, b.env.Now.Truncate(time.Second)}
		due = roll.at.Add(credentialLife - refreshBefore)
	}
	b.rolledTo[name] = roll
	if b.refresh.IsZero() || due.Before(b.refresh) {
		b.refresh = due
	}
	return roll.at, roll.at.Add(credentialLife)
}
