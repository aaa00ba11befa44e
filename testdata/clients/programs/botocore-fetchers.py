"""What every Python program fetches that uses botocore (boto3, Ansible, the AWS CLI): a token, the
credentials of the role, the region."""

from botocore.utils import IMDSFetcher, InstanceMetadataFetcher, InstanceMetadataRegionFetcher

# num_attempts counts answers that make botocore ask again.
token = IMDSFetcher(timeout=5, num_attempts=1)._fetch_metadata_token()
print("token:", len(token), "characters")
found = InstanceMetadataFetcher(timeout=5, num_attempts=1).retrieve_iam_role_credentials()
for name in ("role_name", "access_key", "secret_key", "token", "expiry_time"):
    print(name + ":", found.get(name))
print("region:", InstanceMetadataRegionFetcher(timeout=5, num_attempts=1).retrieve_region())
