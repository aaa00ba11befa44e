package clients

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"

	//lint:ignore SA1019 deprecated, and still in many programs
	awsv1 "github.com/aws/aws-sdk-go/aws"
	rolev1 "github.com/aws/aws-sdk-go/aws/credentials/ec2rolecreds"
	//lint:ignore SA1019 as above
	"github.com/aws/aws-sdk-go/aws/ec2metadata"
	//lint:ignore SA1019 as above
	"github.com/aws/aws-sdk-go/aws/session"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// runEnv names the client or helper that this binary is to be, instead of the tests: a client must run in
// the namespace where the address of the real service is, and a process is in one only.
const runEnv = "IMDSFS_CLIENTS_RUN"

func TestMain(m *testing.M) {
	name := os.Getenv(runEnv)
	run, err := goClients[name], error(nil)
	switch {
	case name == "recorder":
		err = recordExchanges(os.Getenv("RECORDER_DAEMON"), os.Getenv("RECORDER_FILE"))
	case run != nil:
		err = run(context.Background())
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// goClients print what they get, as programs do that know nothing but the library's defaults.
var goClients = map[string]func(context.Context) error{
	"go-sdk-v2-imds": func(ctx context.Context) error {
		client := imds.New(imds.Options{})
		for _, path := range []string{"instance-id", "placement/availability-zone/", "network/interfaces/macs", ""} {
			out, err := client.GetMetadata(ctx, &imds.GetMetadataInput{Path: path})
			if err != nil {
				return err
			}
			text, err := io.ReadAll(out.Content)
			if err != nil {
				return err
			}
			fmt.Printf("%s: %s\n", path, text)
		}
		region, err := client.GetRegion(ctx, nil)
		if err != nil {
			return err
		}
		fmt.Println("region:", region.Region)
		info, err := client.GetIAMInfo(ctx, nil)
		if err != nil {
			return err
		}
		fmt.Println("profile:", info.InstanceProfileArn)
		data, err := client.GetUserData(ctx, nil)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(data.Content)
		fmt.Println("user-data:", len(text), "bytes")
		return err
	},
	"go-sdk-v2-ec2rolecreds": func(ctx context.Context) error {
		c, err := ec2rolecreds.New().Retrieve(ctx)
		fmt.Println(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
		return err
	},
	"go-sdk-v2-config": func(ctx context.Context) error {
		cfg, err := config.LoadDefaultConfig(ctx, config.WithEC2IMDSRegion())
		if err != nil {
			return err
		}
		c, err := cfg.Credentials.Retrieve(ctx)
		fmt.Println(cfg.Region, c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
		return err
	},
	"go-sdk-v1-ec2metadata": func(ctx context.Context) error {
		sess, err := session.NewSession(awsv1.NewConfig())
		if err != nil {
			return err
		}
		client := ec2metadata.New(sess)
		if !client.AvailableWithContext(ctx) {
			return fmt.Errorf("the service is not available")
		}
		zone, err := client.GetMetadataWithContext(ctx, "placement/availability-zone")
		if err != nil {
			return err
		}
		region, err := client.RegionWithContext(ctx)
		if err != nil {
			return err
		}
		document, err := client.GetInstanceIdentityDocumentWithContext(ctx)
		if err != nil {
			return err
		}
		info, err := client.IAMInfoWithContext(ctx)
		if err != nil {
			return err
		}
		data, err := client.GetUserDataWithContext(ctx)
		fmt.Println(zone, region, document.InstanceID, info.InstanceProfileArn, len(data))
		return err
	},
	"go-sdk-v1-ec2rolecreds": func(ctx context.Context) error {
		sess, err := session.NewSession(awsv1.NewConfig())
		if err != nil {
			return err
		}
		c, err := rolev1.NewCredentials(sess).GetWithContext(ctx)
		fmt.Println(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
		return err
	},
	"go-minio-iam": func(context.Context) error {
		c, err := credentials.NewIAM("").GetWithContext(nil)
		fmt.Println(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
		return err
	},
}
