package clients

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

func TestRoleCredentials(t *testing.T) {
	inBothModes(t, func(t *testing.T, endpoint string, _ time.Time) {
		provider := ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = newClient(endpoint) })
		before := time.Now()
		got, err := provider.Retrieve(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// The provider asks again after an hour at most, however long the credentials are valid.
		if early, late := before.Add(time.Hour), time.Now().Add(time.Hour); got.Expires.Before(early) || got.Expires.After(late) {
			t.Errorf("expires %v, want between %v and %v", got.Expires, early, late)
		}
		want := aws.Credentials{
			AccessKeyID:     "ASIAIOSFODNN7EXAMPLE",
			SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
			SessionToken:    "IQoJb3JpZ2luX2VjEXAMPLE//session/token==",
			Source:          ec2rolecreds.ProviderName,
			CanExpire:       true,
			Expires:         got.Expires,
		}
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

func TestRoleDocument(t *testing.T) {
	type document struct{ Code, LastUpdated, Type, AccessKeyId, SecretAccessKey, Token, Expiration string }
	inBothModes(t, func(t *testing.T, endpoint string, stated time.Time) {
		out, err := newClient(endpoint).GetMetadata(t.Context(), &imds.GetMetadataInput{Path: "iam/security-credentials/batch-role"})
		if err != nil {
			t.Fatal(err)
		}
		var got document
		if err := json.Unmarshal([]byte(read(t, out.Content)), &got); err != nil {
			t.Fatal(err)
		}
		want := document{
			Code:            "Success",
			LastUpdated:     stated.Format(time.RFC3339),
			Type:            "AWS-HMAC",
			AccessKeyId:     "ASIAIOSFODNN7EXAMPLE",
			SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
			Token:           "IQoJb3JpZ2luX2VjEXAMPLE//session/token==",
			Expiration:      "2099-01-01T00:00:00Z",
		}
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}
