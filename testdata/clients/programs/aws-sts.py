"""Runs `aws sts get-caller-identity` against an STS of its own on loopback, which signs each request
again with the secret key that the metadata service is known to hold, and refuses another signature."""

import http.server
import re
import subprocess
import sys
import threading

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCESS_KEY = "ASIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOKEN = "IQoJb3JpZ2luX2VjEXAMPLE//session/token=="
REGION = "us-east-1"

IDENTITY = """<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <GetCallerIdentityResult>
    <Arn>arn:aws:sts::123456789012:assumed-role/batch-role/i-0fedcba9876543210</Arn>
    <UserId>AROAEXAMPLE:i-0fedcba9876543210</UserId>
    <Account>123456789012</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata><RequestId>0</RequestId></ResponseMetadata>
</GetCallerIdentityResponse>"""

REFUSAL = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <Error><Type>Sender</Type><Code>SignatureDoesNotMatch</Code><Message>%s</Message></Error>
  <RequestId>0</RequestId>
</ErrorResponse>"""


def fault(url, headers, body):
    """Says what is wrong with the signature of a request, None if nothing is."""
    given = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=(.*), SignedHeaders=(.*), Signature=([0-9a-f]{64})",
        headers.get("Authorization", ""),
    )
    if not given:
        return "no signature of version 4"
    scope, signed, signature = given.groups()
    time = headers.get("X-Amz-Date", "")
    if scope != "%s/%s/%s/sts/aws4_request" % (ACCESS_KEY, time[:8], REGION):
        return "the scope is " + scope
    if headers.get("X-Amz-Security-Token") != TOKEN:
        return "not the session token of the role"
    if "x-amz-security-token" not in signed.split(";"):
        return "the session token is not signed"
    request = AWSRequest("POST", url, {name: headers[name] for name in signed.split(";")}, body)
    request.context["timestamp"] = time
    auth = SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "sts", REGION)
    want = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    return None if signature == want else "the signature is not that of the secret key"


class STS(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        wrong = fault("http://%s%s" % (self.headers["Host"], self.path), self.headers, body)
        # A check that would pass anything is none.
        if not wrong and not fault("http://%s%s" % (self.headers["Host"], self.path), self.headers, body + b"&"):
            wrong = "the check of signatures accepts another body"
        answer = (REFUSAL % wrong if wrong else IDENTITY).encode()
        self.send_response(403 if wrong else 200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), STS)
threading.Thread(target=server.serve_forever, daemon=True).start()
endpoint = "http://127.0.0.1:%d" % server.server_port
sys.exit(subprocess.call(["/usr/bin/aws", "sts", "get-caller-identity", "--output", "json", "--endpoint-url", endpoint]))
