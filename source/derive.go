package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// derive adds what follows from what is stated, and the defaults. What is stated always wins: every
// step only fills a gap.
func (b *builder) derive() {
	b.deriveInstance()
	b.derivePlace()
	b.deriveSpot()
	b.deriveNetwork()
	b.deriveNames()
	b.deriveDefaults()
	b.derivePublicKeys()
	b.deriveTags()
	b.deriveRole()
	b.deriveIdentityCredentials()
	if b.snowball {
		b.cutToSnowball()
	}
	b.deriveDocument()
}

// text is the value at a key: a path of the tree, or "instance.KEY". ok is false if there is none.
func (b *builder) text(key string) (text string, ok bool) {
	v, ok := b.value(key)
	return string(v.Bytes), ok
}

func (b *builder) value(key string) (Value, bool) {
	if k, ok := strings.CutPrefix(key, "instance."); ok {
		v, ok := b.instance[k]
		return v, ok
	}
	l, ok := b.leaves[key]
	return l.Value, ok
}

// follows fills the gap at key with text, which follows from the values at the other keys.
func (b *builder) follows(key, text string, from ...string) {
	v := Value{Bytes: []byte(text), Mtime: b.mtime(from...), Origin: Origin{Kind: Derived, From: from}}
	b.fill(key, v)
}

// fallback fills the gap at key with a documented default.
func (b *builder) fallback(key, text, remark string) {
	b.fill(key, Value{Bytes: []byte(text), Mtime: b.base, Origin: Origin{Kind: Default, Place: remark}})
}

func (b *builder) fill(key string, v Value) {
	if _, ok := b.value(key); ok || b.isRemoved(key) {
		return
	}
	if k, ok := strings.CutPrefix(key, "instance."); ok {
		b.instance[k] = v
		return
	}
	b.leaves[key] = leaf{Value: v}
}

// mtime is the latest of the values at keys.
func (b *builder) mtime(keys ...string) time.Time {
	latest := time.Time{}
	for _, k := range keys {
		if v, ok := b.value(k); ok && v.Mtime.After(latest) {
			latest = v.Mtime
		}
	}
	if latest.IsZero() {
		return b.base
	}
	return latest
}

// hexOf is the first n hex digits of SHA-256("kind:" + of): ids that nobody stated are the same at
// every start.
func hexOf(n int, kind, of string) string {
	sum := sha256.Sum256([]byte(kind + ":" + of))
	return hex.EncodeToString(sum[:])[:n]
}

func (b *builder) deriveInstance() {
	b.base = b.env.LaunchTime
	if v, ok := b.value("meta-data/instance-id"); ok {
		b.base = v.Mtime
	}
	b.fallback("instance.platform", "ec2", "")
	b.fallback("instance.account-id", "000000000000", "")
	b.fallback("instance.hostname-type", "ip-name", "")
	if !b.env.LaunchTime.IsZero() {
		b.fallback("instance.launch-time", b.env.LaunchTime.UTC().Format(time.RFC3339), "fixed at first start")
	}
	if typ, ok := b.text("meta-data/instance-type"); ok {
		b.follows("instance.architecture", architectureOf(typ), "meta-data/instance-type")
	}
	b.fallback("instance.architecture", "x86_64", "")

	platform, _ := b.text("instance.platform")
	b.snowball = platform == "snowball"
	list := ec2Versions
	if b.snowball {
		list = snowballVersions
	}
	b.fallback("instance.versions", strings.Join(list, "\n"), "")
	versions, _ := b.text("instance.versions")
	b.versions = slices.Sorted(strings.SplitSeq(versions, "\n"))
	b.resolveOptions()
}

const (
	regionKey = "meta-data/placement/region"
	zoneKey   = "meta-data/placement/availability-zone"
)

func (b *builder) derivePlace() {
	if zone, ok := b.text(zoneKey); ok {
		if region := regionOf(zone); region != "" {
			b.follows(regionKey, region, zoneKey)
		}
		if id := zoneIDOf(zone); id != "" {
			b.fallback("meta-data/placement/availability-zone-id", id, "EC2 numbers zones by account; state yours if it matters")
		}
	}
	if region, ok := b.text(regionKey); ok {
		if partition, domain, ok := partitionOf(region); ok {
			b.follows("meta-data/services/partition", partition, regionKey)
			b.follows("meta-data/services/domain", domain, regionKey)
		}
	}
}

// deriveSpot repeats a termination where clients looked for it before there were other actions (EC2 user guide,
// "Spot Instance interruption notices").
func (b *builder) deriveSpot() {
	const key = "meta-data/spot/instance-action"
	if document, ok := b.text(key); ok && isSpotAction(document) {
		if notice, _ := jsonTexts(document); notice["action"] == "terminate" {
			b.follows("meta-data/spot/termination-time", notice["time"], key)
		}
	}
}

func (b *builder) deriveDefaults() {
	id, _ := b.text("meta-data/instance-id")
	b.fallback("meta-data/ami-launch-index", "0", "")
	b.fallback("meta-data/ami-manifest-path", "(unknown)", "")
	b.fallback("meta-data/block-device-mapping/ami", "/dev/xvda", "")
	b.mirror("meta-data/block-device-mapping/ami", "meta-data/block-device-mapping/root")
	b.fallback("meta-data/events/maintenance/history", "[]", "")
	b.fallback("meta-data/events/maintenance/scheduled", "[]", "")
	b.fallback("meta-data/instance-action", "none", "")
	b.fallback("meta-data/instance-life-cycle", "on-demand", "")
	b.fallback("meta-data/profile", "default-hvm", "")
	b.fallback("meta-data/reservation-id", "r-"+hexOf(17, "reservation", id), "from the instance id")
	if typ, ok := b.text("meta-data/instance-type"); ok {
		b.follows("meta-data/system", systemOf(typ), "meta-data/instance-type")
	}
	b.fallback("meta-data/system", "nitro", "")
	for setting, path := range documentFields {
		b.mirror("instance."+setting, path)
		b.mirror(path, "instance."+setting)
	}
	b.fallback("dynamic/fws/instance-monitoring", "disabled", "")
}

// documentFields are the settings of fields of the identity document that the tree has too.
var documentFields = map[string]string{
	"kernel-id":                 "meta-data/kernel-id",
	"ramdisk-id":                "meta-data/ramdisk-id",
	"marketplace-product-codes": "meta-data/product-codes",
}

func (b *builder) derivePublicKeys() {
	for i, k := range b.keys {
		dir := fmt.Sprintf("meta-data/public-keys/%d", i)
		v := k.Key
		v.Bytes = []byte(strings.TrimRight(string(v.Bytes), "\n") + "\n")
		b.fill(dir+"/openssh-key", v)
		b.labels[dir] = fmt.Sprintf("%d=%s", i, k.Name)
	}
}

// TagPath is where the tag with this key is shown.
func TagPath(key string) string { return "meta-data/tags/instance/" + key }

func (b *builder) deriveTags() {
	if !b.options.InstanceMetadataTags {
		return
	}
	for key, v := range b.tags {
		b.fill(TagPath(key), v)
	}
}

// cutToSnowball drops what nobody stated and Snowball Edge does not have.
func (b *builder) cutToSnowball() {
	for path, l := range b.leaves {
		if row := lookup(path); l.Origin.Kind != Stated && (row == nil || !row.snowball) {
			delete(b.leaves, path)
		}
	}
}
