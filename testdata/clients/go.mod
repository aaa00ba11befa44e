module github.com/imdsfs/imdsfs/testdata/clients

go 1.26.0

require (
	github.com/aws/aws-sdk-go-v2 v1.47.7
	github.com/aws/aws-sdk-go-v2/credentials v1.20.15
	github.com/aws/aws-sdk-go-v2/feature/ec2/imds v1.20.7
)

require github.com/aws/smithy-go v1.28.8 // indirect
