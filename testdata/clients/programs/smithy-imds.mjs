// The credential provider under every client of the AWS SDK for JavaScript.
import { fromInstanceMetadata } from "@smithy/credential-provider-imds";

console.log(JSON.stringify(await fromInstanceMetadata({ timeout: 5000, maxRetries: 0 })()));
