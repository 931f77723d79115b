"""What botocore signs is verified, and nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.serve.bedrock.errors import CredentialError
from publius.serve.bedrock.sigv4 import Claim, Received, Verifier

KEYS = {"AKIDPOCKET": "a secret/with+signs", "AKIDOTHER": "another"}
ARN = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.publius-haiku-v1:0"
IDS = ["publius-haiku", "anthropic.publius-haiku-v1:0", ARN, "a b~c", "ä/é", "50%"]


def signed(
    url: str,
    body: bytes = b"{}",
    *,
    headers: dict[str, str] | None = None,
    secret: str = KEYS["AKIDPOCKET"],
    service: str = "bedrock",
    token: str | None = None,
) -> Received:
    """A request as a server gets it from a client that signs with botocore."""
    request = AWSRequest("POST", url, headers=headers or {}, data=body)
    SigV4Auth(Credentials("AKIDPOCKET", secret, token), service, "eu-west-1").add_auth(request)
    parts = urlsplit(url)
    sent = [("host", parts.netloc), *((k.lower(), v) for k, v in request.headers.items())]
    return Received("POST", parts.path.encode(), parts.query.encode(), sent, body)


def check(request: Received, verifier: Verifier | None = None) -> Claim:
    verifier = verifier or Verifier(KEYS)
    claim = verifier.claim(request.headers)
    verifier.verify(claim, request)
    return claim


def changed(request: Received, name: str, value: str | None) -> Received:
    """The request with another value of a header, or without it."""
    kept = [(key, old) for key, old in request.headers if key != name]
    return request._replace(headers=[*kept, *([] if value is None else [(name, value)])])


@pytest.mark.parametrize("model", IDS)
@pytest.mark.parametrize("safe", ["", ":", ":;"], ids=["boto3", "colon", "vendor"])
@pytest.mark.parametrize("operation", ["invoke", "converse-stream"])
def test_signatures_of_encoded_ids(model: str, safe: str, operation: str) -> None:
    url = f"http://127.0.0.1:8080/model/{quote(model, safe=safe)}/{operation}"
    claim = check(signed(url, b'{"a": 1}', headers={"Content-Type": "application/json"}))
    assert (claim.key_id, claim.region, claim.service) == ("AKIDPOCKET", "eu-west-1", "bedrock")


@pytest.mark.parametrize(
    "url",
    [
        "http://h/",
        "http://h//model//x/./y/../invoke/",
        "http://h/model/x/invoke?b=2&a=1&a=0&c",
        "http://h/model/x/invoke?q=%20%C3%A4&&",
        "https://h:8443/model/x/invoke",
    ],
)
def test_paths_and_queries(url: str) -> None:
    check(signed(url))


def test_signed_headers_are_taken_as_listed() -> None:
    headers = {"X-Odd": "  two   spaces ", "Accept": "é", "User-Agent": "unsigned"}
    request = signed("http://h/model/x/invoke", headers=headers, token="session")
    assert "user-agent" not in check(request).signed
    check(changed(request, "user-agent", "changed by a proxy"))
    for name in ("x-odd", "accept", "x-amz-security-token", "host"):
        with pytest.raises(CredentialError, match="does not match the signature"):
            check(changed(request, name, "else"))


def test_a_header_that_came_twice_is_joined() -> None:
    request = signed("http://h/model/x/invoke", headers={"X-Two": "a,b"})
    split = changed(request, "x-two", "a")
    check(split._replace(headers=[*split.headers, ("x-two", "b")]))


@settings(max_examples=100)
@given(
    segments=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), max_size=4),
    body=st.binary(max_size=100),
)
def test_any_path_and_body(segments: list[str], body: bytes) -> None:
    path = "/".join(quote(segment, safe="") for segment in segments)
    request = signed(f"http://h/model/{path}/invoke", body)
    check(request)
    with pytest.raises(CredentialError, match="does not match"):
        check(request._replace(body=body + b"x"))
    with pytest.raises(CredentialError, match="does not match"):
        check(request._replace(path=request.path + b"x"))


def test_unsigned_payload() -> None:
    request = signed("http://h/model/x/invoke", headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    check(request._replace(body=b"anything"))
    with pytest.raises(CredentialError, match="x-amz-content-sha256"):
        check(changed(request, "x-amz-content-sha256", "0" * 64))


@pytest.mark.parametrize(
    ("arguments", "exception"),
    [
        ({"secret": "wrong"}, "InvalidSignatureException"),
        ({"secret": KEYS["AKIDOTHER"]}, "InvalidSignatureException"),
        ({"service": "s3"}, "InvalidSignatureException"),
    ],
)
def test_what_is_signed_otherwise_is_refused(arguments: dict[str, Any], exception: str) -> None:
    with pytest.raises(CredentialError) as refused:
        check(signed("http://h/model/x/invoke", **arguments))
    assert refused.value.exception == exception and refused.value.type == "authentication_error"


def test_another_key_another_method_another_signature() -> None:
    request = signed("http://h/model/x/invoke")
    with pytest.raises(CredentialError, match="does not match"):
        check(request._replace(method="PUT"))
    with pytest.raises(CredentialError, match="does not match"):
        check(request._replace(query=b"a=1"))
    authorization = request.header("authorization") or ""
    for old, new in (("AKIDPOCKET", "AKIDOTHER"), ("eu-west-1", "us-east-1"), ("Signature=", "Signature=f")):
        with pytest.raises(CredentialError, match="does not match"):
            check(changed(request, "authorization", authorization.replace(old, new)))
    with pytest.raises(CredentialError) as refused:
        check(changed(request, "authorization", authorization.replace("AKIDPOCKET", "AKIDNOBODY")))
    assert refused.value.exception == "UnrecognizedClientException"


@pytest.mark.parametrize("minutes", [-5.5, -4.5, 4.5, 5.5])
def test_five_minutes_of_skew(minutes: float) -> None:
    verifier = Verifier(KEYS, now=lambda: datetime.now(UTC) + timedelta(minutes=minutes))
    request = signed("http://h/model/x/invoke")
    if abs(minutes) < 5:
        check(request, verifier)
    else:
        with pytest.raises(CredentialError, match="expired" if minutes > 0 else "not yet current"):
            check(request, verifier)


def test_the_date_is_the_scopes() -> None:
    request = signed("http://h/model/x/invoke")
    stamp = request.header("x-amz-date") or ""
    authorization = (request.header("authorization") or "").replace(f"/{stamp[:8]}/", "/20200101/")
    with pytest.raises(CredentialError, match="Date in Credential scope"):
        check(changed(request, "authorization", authorization))
    for wrong in (None, "yesterday"):
        with pytest.raises(CredentialError, match="x-amz-date"):
            check(changed(request, "x-amz-date", wrong))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a/b/c/bedrock/aws4_request, SignedHeaders=host",
        "AWS4-HMAC-SHA256 Credential=a/aws4_request, SignedHeaders=host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=a/b/c/bedrock/aws4_request, SignedHeaders=x-amz-date, Signature=0",
        "AWS4-HMAC-SHA256 Signature=0, Signature=0, Signature=0",
        "Basic eDp5",
    ],
)
def test_malformed_headers(value: str) -> None:
    with pytest.raises(CredentialError) as refused:
        Claim.parse(value)
    assert refused.value.exception == "IncompleteSignatureException"


def test_presence_lets_ids_pass_whose_secret_is_not_held() -> None:
    request = signed("http://h/model/x/invoke", secret="wrong", headers={"X-Edited": "before"})
    edited = changed(request, "x-edited", "after")
    for secrets in ({}, {"AKIDOTHER": "s"}):
        assert check(edited, Verifier(secrets, "presence")).key_id == "AKIDPOCKET"
        with pytest.raises(CredentialError, match="security token"):
            check(edited, Verifier(secrets))
    with pytest.raises(CredentialError, match="does not match"):
        check(edited, Verifier(KEYS, "presence"))
