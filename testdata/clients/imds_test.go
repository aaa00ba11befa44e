package clients

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

// newClient returns the SDK's client as programs use it, but for its fall-back to IMDSv1, which would
// hide a token that cannot be had.
func newClient(endpoint string) *imds.Client {
	return imds.New(imds.Options{
		Endpoint:          endpoint,
		ClientEnableState: imds.ClientEnabled,
		EnableFallback:    aws.FalseTernary,
	})
}

const mac = "0e:10:32:54:76:98"

var metadata = []struct{ path, want string }{
	{"instance-id", "i-0fedcba9876543210"},
	{"/instance-id", "i-0fedcba9876543210"},
	{"placement/availability-zone/", "us-east-1c"},
	{"placement/availability-zone-id", "use1-az6"},
	{"placement/region", "us-east-1"},
	{"local-hostname", "ip-10-0-1-23.ec2.internal"},
	{"public-hostname", "ec2-203-0-113-99.compute-1.amazonaws.com"},
	{"product-codes", "7examplecodeaaaaaaaaaaaaa\n7examplecodebbbbbbbbbbbbb"},
	{"instance-life-cycle", "spot"},
	{"spot/instance-action", `{"action": "terminate", "time": "2026-03-01T11:02:00Z"}`},
	{"events/recommendations/rebalance", `{"noticeTime": "2026-03-01T10:55:00Z"}`},
	{"network/interfaces/macs/" + mac + "/subnet-id", "subnet-0d1d2d3d4d5d6d7d8"},
	{"network/interfaces/macs/" + mac + "/ipv4-associations/203.0.113.99", "10.0.1.23"},
	{"public-keys/1/openssh-key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINR1q1L1LxKkoS1vsVD8+yrGBrDtNTC0gry551e0/oTE ops\n"},
	{"tags/instance/Name", "batch worker 7"},
	{"tags/instance/Empty", ""},
	{"tags/instance/app.example.com:tier", "batch"},

	{"network", "interfaces/"},
	{"network/interfaces/macs", mac + "/"},
	{"network/interfaces/macs/", mac + "/"},
	{"iam", "info\nsecurity-credentials/"},
	{"iam/security-credentials", "batch-role"},
	{"identity-credentials/ec2/security-credentials/", "ec2-instance"},
	{"public-keys", "0=deploy\n1=ops"},
	{"public-keys/0", "openssh-key"},
	{"tags/instance", "Empty\nName\nPath\napp.example.com:tier"},
	{"", strings.Join([]string{
		"ami-id", "ami-launch-index", "ami-manifest-path", "block-device-mapping/", "events/", "hostname", "iam/",
		"identity-credentials/", "instance-action", "instance-id", "instance-life-cycle", "instance-type", "local-hostname", "local-ipv4",
		"mac", "network/", "placement/", "product-codes", "profile", "public-hostname", "public-ipv4",
		"public-keys/", "reservation-id", "security-groups", "services/", "spot/", "system", "tags/",
	}, "\n")},
}

var dynamic = []struct{ path, want string }{
	{"", "fws/\ninstance-identity/"},
	{"instance-identity", "document"},
	{"fws/instance-monitoring", "disabled"},
	{"instance-identity/document", `{
  "accountId" : "123456789012",
  "architecture" : "x86_64",
  "availabilityZone" : "us-east-1c",
  "billingProducts" : null,
  "devpayProductCodes" : null,
  "marketplaceProductCodes" : [ "7examplecodeaaaaaaaaaaaaa", "7examplecodebbbbbbbbbbbbb" ],
  "imageId" : "ami-0123456789abcdef0",
  "instanceId" : "i-0fedcba9876543210",
  "instanceType" : "c5.xlarge",
  "kernelId" : null,
  "pendingTime" : "2026-03-01T09:15:27Z",
  "privateIp" : "10.0.1.23",
  "ramdiskId" : null,
  "region" : "us-east-1",
  "version" : "2017-09-30"
}`},
}

func TestGetMetadata(t *testing.T) {
	inBothModes(t, func(t *testing.T, endpoint string, _ time.Time) {
		client := newClient(endpoint)
		for _, c := range metadata {
			out, err := client.GetMetadata(t.Context(), &imds.GetMetadataInput{Path: c.path})
			if err != nil {
				t.Errorf("GetMetadata(%q): %v", c.path, err)
				continue
			}
			if got := read(t, out.Content); got != c.want {
				t.Errorf("GetMetadata(%q) = %q, want %q", c.path, got, c.want)
			}
		}
	})
}

func TestGetMetadataOfWhatIsNotThereIs404(t *testing.T) {
	inBothModes(t, func(t *testing.T, endpoint string, _ time.Time) {
		client := newClient(endpoint)
		for _, path := range []string{"kernel-id", "instance-id/below", "no/such/path"} {
			_, err := client.GetMetadata(t.Context(), &imds.GetMetadataInput{Path: path})
			var status interface{ HTTPStatusCode() int }
			if !errors.As(err, &status) || status.HTTPStatusCode() != http.StatusNotFound {
				t.Errorf("GetMetadata(%q): %v, want status 404", path, err)
			}
		}
	})
}

func TestGetDynamicData(t *testing.T) {
	inBothModes(t, func(t *testing.T, endpoint string, _ time.Time) {
		client := newClient(endpoint)
		for _, c := range dynamic {
			out, err := client.GetDynamicData(t.Context(), &imds.GetDynamicDataInput{Path: c.path})
			if err != nil {
				t.Errorf("GetDynamicData(%q): %v", c.path, err)
				continue
			}
			if got := read(t, out.Content); got != c.want {
				t.Errorf("GetDynamicData(%q) = %q, want %q", c.path, got, c.want)
			}
		}
	})
}

func TestGetUserDataReturnsBinaryUnchanged(t *testing.T) {
	const want = "#cloud-config\nhostname: batch-7\nruncmd:\n  - [systemctl, start, batch-worker]\n"
	inBothModes(t, func(t *testing.T, endpoint string, _ time.Time) {
		out, err := newClient(endpoint).GetUserData(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		raw := read(t, out.Content)
		if !strings.Contains(raw, "\x00") || !strings.Contains(raw, "\xff") {
			t.Errorf("the user-data %q does not hold NUL and 0xff, which this test is about", raw)
		}
		unzip, err := gzip.NewReader(bytes.NewReader([]byte(raw)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(unzip) // checks the length and the CRC
		if err != nil {
			t.Fatal(err)
		}
		if string(text) != want || len(raw) != 96 {
			t.Errorf("%d bytes that unpack to %q, want 96 bytes that unpack to %q", len(raw), text, want)
		}
	})
}

func TestGetInstanceIdentityDocument(t *testing.T) {
	want := imds.InstanceIdentityDocument{
		MarketplaceProductCodes: []string{"7examplecodeaaaaaaaaaaaaa", "7examplecodebbbbbbbbbbbbb"},
		AvailabilityZone:        "us-east-1c",
		PrivateIP:               "10.0.1.23",
		Version:                 "2017-09-30",
		Region:                  "us-east-1",
		InstanceID:              "i-0fedcba9876543210",
		InstanceType:            "c5.xlarge",
		AccountID:               "123456789012",
		PendingTime:             time.Date(2026, 3, 1, 9, 15, 27, 0, time.UTC),
		ImageID:                 "ami-0123456789abcdef0",
		Architecture:            "x86_64",
	}
	inBothModes(t, func(t *testing.T, endpoint string, _ time.Time) {
		out, err := newClient(endpoint).GetInstanceIdentityDocument(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(out.InstanceIdentityDocument, want) {
			t.Errorf("got  %+v\nwant %+v", out.InstanceIdentityDocument, want)
		}
	})
}

func TestGetRegion(t *testing.T) {
	inBothModes(t, func(t *testing.T, endpoint string, _ time.Time) {
		out, err := newClient(endpoint).GetRegion(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if out.Region != "us-east-1" {
			t.Errorf("GetRegion = %q, want us-east-1", out.Region)
		}
	})
}

func TestGetIAMInfo(t *testing.T) {
	inBothModes(t, func(t *testing.T, endpoint string, stated time.Time) {
		out, err := newClient(endpoint).GetIAMInfo(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want := imds.IAMInfo{
			Code:               "Success",
			LastUpdated:        stated,
			InstanceProfileArn: "arn:aws:iam::123456789012:instance-profile/batch/batch-profile",
			InstanceProfileID:  "AIPA5EXAMPLEEXAMPLE00",
		}
		if out.IAMInfo != want {
			t.Errorf("got  %+v\nwant %+v", out.IAMInfo, want)
		}
	})
}

// A recorder is an HTTP client that notes what is asked and answered.
type recorder struct {
	mu    sync.Mutex
	calls []string
}

func (r *recorder) Do(req *http.Request) (*http.Response, error) {
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.calls = append(r.calls, req.Method+" "+req.URL.Path+" "+resp.Status)
	}
	return resp, err
}

func TestOneTokenServesManyCalls(t *testing.T) {
	inBothModes(t, func(t *testing.T, endpoint string, _ time.Time) {
		var rec recorder
		client := imds.New(imds.Options{
			Endpoint:          endpoint,
			ClientEnableState: imds.ClientEnabled,
			EnableFallback:    aws.FalseTernary,
			HTTPClient:        &rec,
		})
		for _, path := range []string{"instance-id", "", "mac"} {
			out, err := client.GetMetadata(t.Context(), &imds.GetMetadataInput{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			read(t, out.Content)
		}
		want := []string{
			"PUT /latest/api/token 200 OK",
			"GET /latest/meta-data/instance-id 200 OK",
			"GET /latest/meta-data 200 OK",
			"GET /latest/meta-data/mac 200 OK",
		}
		if !reflect.DeepEqual(rec.calls, want) {
			t.Errorf("the client's calls were\n  %s\nwant\n  %s", strings.Join(rec.calls, "\n  "), strings.Join(want, "\n  "))
		}
	})
}

// The other tests run in both modes; this one shows that the modes differ.
func TestCallWithoutToken(t *testing.T) {
	want := map[string]int{"optional": http.StatusOK, "required": http.StatusUnauthorized}
	binary(t)
	for tokens, status := range want {
		t.Run("http-tokens="+tokens, func(t *testing.T) {
			resp, err := http.Get(serve(t, withTokens(t, tokens)) + "/latest/meta-data/instance-id")
			if err != nil {
				t.Fatal(err)
			}
			read(t, resp.Body)
			if resp.StatusCode != status {
				t.Errorf("status %d, want %d", resp.StatusCode, status)
			}
		})
	}
}

func read(t *testing.T, body io.ReadCloser) string {
	t.Helper()
	defer body.Close()
	text, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
