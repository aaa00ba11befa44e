// The client of the AWS SDK for JavaScript, as `new MetadataService()` finds the service.
import { MetadataService } from "@aws-sdk/ec2-metadata-service";

const service = new MetadataService();
console.log("token:", (await service.fetchMetadataToken()).length, "characters");
for (const path of ["/latest/meta-data/instance-id", "/latest/meta-data/placement/region", "/latest/dynamic/instance-identity/document"]) {
  console.log(path, await service.request(path, {}));
}
