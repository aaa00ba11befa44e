// The MinIO client's provider of a role's credentials.
import { IamAwsProvider } from "minio";

const c = await new IamAwsProvider({}).getCredentials();
console.log(JSON.stringify([c.accessKey, c.secretKey, c.sessionToken]));
