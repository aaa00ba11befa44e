package host

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	machineIDFile   = "/etc/machine-id"
	hostnameFile    = "/proc/sys/kernel/hostname"
	productNameFile = "/sys/class/dmi/id/product_name"
	assetTagFile    = "/sys/class/dmi/id/board_asset_tag"

	// defaultType is the instance type of a machine without a DMI product name.
	defaultType = "imdsfs.host"

	idDigits = 17 // of an instance id, after "i-"
)

// uuidFiles hold EC2's UUID on Xen. Only root can read the first one.
var uuidFiles = []string{"/sys/class/dmi/id/product_uuid", "/sys/hypervisor/uuid"}

// applicationID keeps the machine id confidential: machine-id(5) asks for a keyed hash with an id of the application. If
// you change it, the instance id of every host changes.
const applicationID = "imdsfs instance-id 3f1c5a0e9b7d4c62"

var (
	instanceIDPattern = regexp.MustCompile(`^i-[0-9a-f]{8,32}$`)
	uuidPattern       = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	machineIDPattern  = regexp.MustCompile(`^[0-9a-f]{32}$`)
	hostnamePattern   = regexp.MustCompile(`^[0-9A-Za-z]([0-9A-Za-z._-]{0,252}[0-9A-Za-z])?$`)
	unsafeInType      = regexp.MustCompile(`[^0-9A-Za-z._]+`)
)

// loadIdentity states the instance id, the instance type and the host name. The error names the missing file and how to
// make it.
func (s *Source) loadIdentity(f *fragment) error {
	id, place, err := s.instanceID()
	if err != nil {
		return err
	}
	f.set("instance-id", id, stated(place))

	name, _ := s.read(productNameFile, maxAttribute)
	if token := instanceType(name); token != "" {
		f.set("instance-type", token, stated(productNameFile))
	} else {
		f.set("instance-type", defaultType, tree.Origin{Kind: tree.Default, Place: "a host without " + productNameFile})
	}

	text, _ := s.read(hostnameFile, maxAttribute)
	switch host := strings.TrimSpace(text); {
	case host == "", host == "(none)", host == "localhost", strings.HasPrefix(host, "localhost."): // not set
	case !hostnamePattern.MatchString(host):
		f.warnings = append(f.warnings, problem.Fault{Place: hostnameFile, Text: "not a host name, left out",
			Hint: "set one of letters, digits, '.' and '-'"})
	default:
		f.set("local-hostname", host, stated(hostnameFile))
	}
	return nil
}

// instanceID returns the id and the file that it comes from.
func (s *Source) instanceID() (id, place string, err error) {
	// If a file cannot be read (no DMI, not root), the next one counts.
	tag, _ := s.read(assetTagFile, maxAttribute)
	if id := idFromAssetTag(tag); id != "" {
		return id, assetTagFile, nil
	}
	for _, file := range uuidFiles {
		text, _ := s.read(file, maxAttribute)
		if id := idFromUUID(text); id != "" {
			return id, file, nil
		}
	}
	text, err := s.read(machineIDFile, maxAttribute)
	if err == nil {
		if id := idFromMachineID(text); id != "" {
			return id, machineIDFile, nil
		}
		err = fmt.Errorf("%s: not 32 hexadecimal digits", machineIDFile)
	}
	return "", "", fmt.Errorf("instance-id: %w; run systemd-machine-id-setup, or give an instance file with instance-id", err)
}

// idFromAssetTag returns the instance id that the board's asset tag holds on EC2 Nitro, else "".
func idFromAssetTag(tag string) string {
	if tag = strings.TrimSpace(tag); instanceIDPattern.MatchString(tag) {
		return tag
	}
	return ""
}

// idFromUUID makes an instance id from the UUID of an EC2 machine, which starts with ec2 (EC2 user guide, "Identify EC2
// instances"). For any other text it returns "". The id is not the one that EC2 uses: the UUID does not contain that.
func idFromUUID(text string) string {
	uuid := strings.ToLower(strings.TrimSpace(text))
	if !uuidPattern.MatchString(uuid) || !strings.HasPrefix(uuid, "ec2") {
		return ""
	}
	digits := strings.ReplaceAll(uuid, "-", "")
	return "i-" + digits[len(digits)-idDigits:]
}

// idFromMachineID makes an instance id from the text of /etc/machine-id. It returns "" if the text is not an id
// ("uninitialized").
func idFromMachineID(text string) string {
	id := strings.ToLower(strings.TrimSpace(text))
	if !machineIDPattern.MatchString(id) {
		return ""
	}
	mac := hmac.New(sha256.New, []byte(id))
	mac.Write([]byte(applicationID))
	return "i-" + hex.EncodeToString(mac.Sum(nil))[:idDigits]
}

// instanceType turns a DMI product name into one word of at most 64 characters that an instance type may have: "m5.large"
// stays, "Standard PC (Q35 + ICH9, 2009)" becomes "Standard-PC-Q35-ICH9-2009". It returns "" if nothing is left.
func instanceType(product string) string {
	token := strings.Trim(unsafeInType.ReplaceAllString(product, "-"), "-.")
	if len(token) > 64 {
		token = strings.TrimRight(token[:64], "-.")
	}
	return token
}
