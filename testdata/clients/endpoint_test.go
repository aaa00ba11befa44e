package clients

import (
	"os"
	"os/exec"
	"testing"
)

// The README's lines of Go find a daemon that listens elsewhere, with the URL as the README writes it. (cmd/imdsfs
// looks after its lines for curl, the AWS CLI and boto3.)
func TestGoReadsTheEndpointFromTheEnvironment(t *testing.T) {
	cmd := exec.Command(self(t))
	cmd.Env = append(os.Environ(), noRaceSleep, runEnv+"=go-sdk-v2-config", "AWS_EC2_METADATA_SERVICE_ENDPOINT="+serve(t, instanceFile)+"/",
		"AWS_ACCESS_KEY_ID=", "AWS_REGION=", "HOME="+t.TempDir())
	const want = "us-east-1 ASIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY IQoJb3JpZ2luX2VjEXAMPLE//session/token==\n"
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
		t.Errorf("it prints %q, %v; want %q", out, err, want)
	}
}
