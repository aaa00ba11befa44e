package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A client is an unmodified program or library, and what it is asked to do.
type client struct {
	name    string // of its golden file
	title   string // for people
	version func(*testing.T) string
	what    string   // what it does, for people
	needs   []string // files without which it cannot run
	command []string // run in a world of its own

	// versions is the list of the instance file, with commas; "" is EC2's list.
	versions string
	// v1Only clients know no tokens: they must be refused where tokens are required.
	v1Only bool
	// want is in what it prints when it is served, and not when it is refused.
	want []string
}

const (
	cloudInitDir  = "../../.deps/cloud-init"
	instanceID    = "i-0fedcba9876543210"
	accessKey     = "ASIAIOSFODNN7EXAMPLE"
	secretKey     = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	sessionToken  = "IQoJb3JpZ2luX2VjEXAMPLE//session/token=="
	deployKey     = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEt/QIhMN/Kbzg4a9zh1MrmDUkX1+3Ca9pJpvxx1S8Wz deploy"
	profileARN    = "arn:aws:iam::123456789012:instance-profile/batch/batch-profile"
	at            = "http://169.254.169.254/latest/"
	guideGetToken = `TOKEN=$(curl -X PUT "` + at + `api/token" -H "X-aws-ec2-metadata-token-ttl-seconds: 21600")`
)

// clients is the table of all that are tried, in the order of README.md.
func clients(t *testing.T) []client {
	sh := func(lines ...string) []string { return []string{"sh", "-euc", strings.Join(lines, "\n")} }
	python := func(script string, args ...string) []string {
		return append([]string{"/usr/bin/python3", absolute(t, "programs/"+script)}, args...)
	}
	on := func(machine string, command ...string) []string {
		return append([]string{absolute(t, "programs/on-machine.sh"), machine}, command...)
	}
	list := []client{
		{
			name: "curl-v1", title: "curl", version: debian("curl"), needs: []string{"/usr/bin/curl"},
			what:    "the AWS guide's lines without a token",
			command: sh("curl "+at+"meta-data/", "curl "+at+"meta-data/instance-id", "curl "+at+"meta-data/public-keys/0/openssh-key"),
			v1Only:  true,
			want:    []string{"ami-id\nami-launch-index\n", instanceID + deployKey + "\n"},
		},
		{
			name: "curl-v2", title: "curl", version: debian("curl"), needs: []string{"/usr/bin/curl"},
			what: "the AWS guide's lines with a token",
			command: sh(guideGetToken+` && curl -H "X-aws-ec2-metadata-token: $TOKEN" -v `+at+"meta-data/",
				`curl -H "X-aws-ec2-metadata-token: $TOKEN" -v `+at+"meta-data/instance-id",
				`curl -H "X-aws-ec2-metadata-token: $TOKEN" -v `+at+"meta-data/tags/instance/Name"),
			want: []string{"ami-id\nami-launch-index\n", instanceID + "batch worker 7"},
		},
		{
			name: "wget-v1", title: "wget", version: debian("wget"), needs: []string{"/usr/bin/wget"},
			what:    "the same without a token",
			command: sh("wget -q -O - "+at+"meta-data/", "wget -q -O - "+at+"meta-data/instance-id"),
			v1Only:  true,
			want:    []string{"ami-id\nami-launch-index\n", instanceID},
		},
		{
			name: "wget-v2", title: "wget", version: debian("wget"), needs: []string{"/usr/bin/wget"},
			what: "the same with a token",
			command: sh(`TOKEN=$(wget -q -O - --method PUT --header "X-aws-ec2-metadata-token-ttl-seconds: 21600" `+at+`api/token)`,
				`wget -q -O - --header "X-aws-ec2-metadata-token: $TOKEN" `+at+"meta-data/",
				`wget -q -O - --header "X-aws-ec2-metadata-token: $TOKEN" `+at+"meta-data/instance-id"),
			want: []string{"ami-id\nami-launch-index\n", instanceID},
		},
		{
			name: "ec2metadata", title: "ec2metadata (cloud-guest-utils)", version: debian("cloud-guest-utils"), needs: []string{"/usr/bin/ec2metadata"},
			what:    "prints all it knows",
			command: []string{"/usr/bin/ec2metadata"},
			want: []string{"instance-id: " + instanceID + "\n", "availability-zone: us-east-1c\n", "local-ipv4: 10.0.1.23\n",
				"public-keys: ['" + deployKey + "'", "product-codes: 7examplecodeaaaaaaaaaaaaa\n"},
		},
		{
			name: "ec2-metadata", title: "ec2-metadata (amazon-ec2-utils)", version: debian("amazon-ec2-utils"), needs: []string{"/usr/bin/ec2-metadata"},
			what:    "`--all`",
			command: []string{"/usr/bin/ec2-metadata", "--all"},
			want: []string{"instance-id: " + instanceID + "\n", "placement: us-east-1c\n", "security-groups: batch\ndefault\n",
				"keyname:deploy\nindex:0\nformat:openssh-key\nkey:(begins from next line)\n" + deployKey + "\n"},
		},
		{
			name: "aws-configure-list", title: "AWS CLI", version: debian("awscli"), needs: []string{"/usr/bin/aws"},
			what:    "`aws configure list`: region and credentials",
			command: []string{"/usr/bin/aws", "configure", "list"},
			want:    []string{"access_key     ****************MPLE         iam-role", "region                us-east-1             imds"},
		},
		{
			name: "aws-sts", title: "AWS CLI", version: debian("awscli"), needs: []string{"/usr/bin/aws", "/usr/lib/python3/dist-packages/botocore"},
			what:    "`aws sts get-caller-identity` at a test endpoint that checks the signature with botocore",
			command: python("aws-sts.py"),
			want:    []string{`"Arn": "arn:aws:sts::123456789012:assumed-role/batch-role/` + instanceID + `"`},
		},
		{
			name: "botocore", title: "botocore", version: debian("python3-botocore"), needs: []string{"/usr/lib/python3/dist-packages/botocore"},
			what:    "token, credentials and region fetchers",
			command: python("botocore-fetchers.py"),
			want: []string{"token: 56 characters\n", "role_name: batch-role\n", "access_key: " + accessKey + "\n", "secret_key: " + secretKey + "\n",
				"token: " + sessionToken + "\n", "expiry_time: 2099-01-01T00:00:00Z\n", "region: us-east-1\n"},
		},
		{
			name: "facter", title: "Facter", version: debian("facter"), needs: []string{"/usr/bin/facter"},
			what:    "the fact `ec2_metadata`",
			command: on("ec2", "/usr/bin/facter", "--no-external-facts", "--no-custom-facts", "--json", "ec2_metadata"),
			want:    []string{`"instance-id": "` + instanceID + `"`, `"vpc-id": "vpc-0e1e2e3e4e5e6e7e8"`, `"app.example.com:tier": "batch"`},
		},
		{
			name: "ohai", title: "Ohai", version: debian("ohai"), needs: []string{"/usr/bin/ohai"},
			what:    "its plugin `ec2`, at the newest version that it knows",
			command: on("ec2", "/usr/bin/ohai", "ec2"),
			want:    []string{`"instance_id": "` + instanceID + `"`, `"role_name": "batch_role"`, `"account_id": "123456789012"`, `"region": "us-east-1"`, `"userdata": "H4sI`},
		},
	}

	const older = "1.0,2007-01-19,2009-04-04"
	const network = `"macaddress": "0e:10:32:54:76:98"`
	for _, c := range []struct {
		version, list string
		want          []string
	}{
		{"2021-03-23", "", []string{network, `"Name": "batch worker 7"`}},
		{"2018-09-24", older + ",2016-09-02,2018-09-24", []string{network, `"tags": null`}},
		{"2016-09-02", older + ",2016-09-02", []string{network, `"tags": null`}},
		{"2009-04-04", older, []string{`"network": null`, `"tags": null`}},
	} {
		want := append(c.want, `"version": "`+c.version+`"`, `"instance-id": "`+instanceID+`"`, `"region": "us-east-1"`,
			`"zone": "us-east-1c"`, `"hostname": "ip-10-0-1-23"`, `"`+deployKey+`"`, `"user-data": 96`)
		list = append(list, client{
			name: "cloud-init-" + c.version, title: "cloud-init, on EC2 by /sys/hypervisor/uuid", version: unpacked("cloud-init"), needs: []string{cloudInitDir},
			what:     "its EC2 data source, with " + c.version + " as the newest version that both know",
			command:  on("ec2", python("cloud-init.py", absolute(t, cloudInitDir))...),
			versions: c.list,
			want:     append(slices.Clone(want), `"cloud": "aws"`, `"document": "2026-03-01T09:15:27Z"`),
		}, client{
			name: "cloud-init-elsewhere-" + c.version, title: "cloud-init, on another machine", version: unpacked("cloud-init"), needs: []string{cloudInitDir},
			what:     "the same; without a token then",
			command:  on("other", python("cloud-init.py", absolute(t, cloudInitDir))...),
			versions: c.list,
			v1Only:   true,
			want:     append(slices.Clone(want), `"cloud": "unknown"`),
		})
	}

	keys := accessKey + " " + secretKey + " " + sessionToken + "\n"
	for _, c := range []client{
		{name: "go-sdk-v2-imds", title: "aws-sdk-go-v2, `feature/ec2/imds`", version: goModule("github.com/aws/aws-sdk-go-v2/feature/ec2/imds"),
			what: "`GetMetadata`, `GetRegion`, `GetIAMInfo`, `GetUserData`",
			want: []string{"instance-id: " + instanceID + "\n", "placement/availability-zone/: us-east-1c\n", "network/interfaces/macs: 0e:10:32:54:76:98/\n",
				"region: us-east-1\n", "profile: " + profileARN + "\n", "user-data: 96 bytes\n"}},
		{name: "go-sdk-v2-ec2rolecreds", title: "aws-sdk-go-v2, `credentials/ec2rolecreds`", version: goModule("github.com/aws/aws-sdk-go-v2/credentials"),
			what: "the role's credentials", want: []string{keys}},
		{name: "go-sdk-v2-config", title: "aws-sdk-go-v2, `config`", version: goModule("github.com/aws/aws-sdk-go-v2/config"),
			what: "`LoadDefaultConfig`: region and credentials", want: []string{"us-east-1 " + keys}},
		{name: "go-sdk-v1-ec2metadata", title: "aws-sdk-go, `ec2metadata`", version: goModule("github.com/aws/aws-sdk-go"),
			what: "`GetMetadata`, `Region`, `GetInstanceIdentityDocument`, `IAMInfo`, `GetUserData`", want: []string{"us-east-1c us-east-1 " + instanceID + " " + profileARN + " 96\n"}},
		{name: "go-sdk-v1-ec2rolecreds", title: "aws-sdk-go, `ec2rolecreds`", version: goModule("github.com/aws/aws-sdk-go"),
			what: "the role's credentials", want: []string{keys}},
		{name: "go-minio-iam", title: "minio-go, `credentials.NewIAM`", version: goModule("github.com/minio/minio-go/v7"),
			what: "the role's credentials", want: []string{keys}},
	} {
		c.command = []string{"env", runEnv + "=" + c.name, self(t)}
		list = append(list, c)
	}

	node, err := exec.LookPath("node")
	if err != nil {
		node = "/usr/bin/node" // which is then missing
	}
	js := func(script string) []string { return []string{node, absolute(t, "programs/"+script)} }
	return append(list,
		client{
			name: "js-metadata-service", title: "`@aws-sdk/ec2-metadata-service`", version: npm("@aws-sdk/ec2-metadata-service"),
			needs:   []string{node, "node_modules/@aws-sdk/ec2-metadata-service"},
			what:    "token, values, identity document",
			command: js("metadata-service.mjs"),
			want:    []string{"token: 56 characters\n", "instance-id " + instanceID + "\n", "placement/region us-east-1\n", `"instanceId" : "` + instanceID + `"`},
		},
		client{
			name: "js-smithy-imds", title: "`@smithy/credential-provider-imds`", version: npm("@smithy/credential-provider-imds"),
			needs:   []string{node, "node_modules/@smithy/credential-provider-imds"},
			what:    "the role's credentials",
			command: js("smithy-imds.mjs"),
			want:    []string{`"accessKeyId":"` + accessKey + `","secretAccessKey":"` + secretKey + `","sessionToken":"` + sessionToken + `"`, `"expiration":"2099-01-01T00:00:00.000Z"`},
		},
		client{
			name: "js-minio", title: "`minio`, `IamAwsProvider`", version: npm("minio"),
			needs:   []string{node, "node_modules/minio"},
			what:    "the role's credentials, but for the access key id, which it misses on EC2 too: it looks for `AccessKeyID`",
			command: js("minio.mjs"),
			want:    []string{`"` + secretKey + `","` + sessionToken + `"]`},
		},
	)
}

// debian is the version of an installed package.
func debian(name string) func(*testing.T) string {
	return func(t *testing.T) string {
		out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", name).Output()
		require(t, err == nil, "the Debian package "+name)
		return string(out)
	}
}

// unpacked is the version of a package that .ci/deps unpacked.
func unpacked(name string) func(*testing.T) string {
	return func(t *testing.T) string {
		text, err := os.ReadFile("../../.deps/" + name + ".version")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
