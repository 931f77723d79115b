"""AWS Signature Version 4, from the side that is asked: is this request signed with the secret we hold?

The client has hashed what it sent: method, path, query, the headers it names, and the body. So we hash what
came, byte for byte as it came. The path is quoted once more: every service but S3 wants it so, and `%3A` on
the wire is `%253A` in what is signed.
Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple
from urllib.parse import quote

from publius.serve.bedrock.errors import CredentialError

__all__ = ["ALGORITHM", "Claim", "Mode", "Received", "Verifier", "canonical_request", "sign"]

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW = timedelta(minutes=5)
_SERVICE = "bedrock"
_UNSIGNED = "UNSIGNED-PAYLOAD"
_STAMP = "%Y%m%dT%H%M%SZ"
_PART = re.compile(r"\s*(Credential|SignedHeaders|Signature)=([^\s,]+)\s*")

Mode = Literal["verified", "presence"]


class Received(NamedTuple):
    """A request as it came.

    Args:
        method: in capitals.
        path: the raw path, percent-encoded as it was sent.
        query: the raw query string, without "?".
        headers: names in lower case and values, in order; a name may come more than once.
        body: all of it.
    """

    method: str
    path: bytes
    query: bytes
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value under a name (lower case), the last of several."""
        return dict(self.headers).get(name)


class Claim(NamedTuple):
    """What an Authorization header says of itself; nothing of it is proved yet."""

    key_id: str
    date: str
    """Of the credential scope, YYYYMMDD."""
    region: str
    service: str
    signed: tuple[str, ...]
    """Names of the signed headers."""
    signature: str

    @classmethod
    def parse(cls, authorization: str) -> Claim:
        """From the header's value.

        Raises:
            CredentialError: when a part is missing or malformed.
        """
        scheme, _, rest = authorization.strip().partition(" ")
        pairs = [_PART.fullmatch(part) for part in rest.split(",")]
        parts = {pair[1]: pair[2] for pair in pairs if pair}
        scope = parts.get("Credential", "").rsplit("/", 4)
        if scheme != ALGORITHM or len(pairs) != 3 or len(parts) != 3 or len(scope) != 5:
            raise _incomplete(f"Authorization header must be: {ALGORITHM} Credential=<id>/<date>/<region>/"
                              "<service>/aws4_request, SignedHeaders=<names>, Signature=<hex>")  # fmt: skip
        key_id, date, region, service, end = scope
        if end != "aws4_request" or service != _SERVICE or not key_id:
            raise CredentialError(
                "InvalidSignatureException",
                f"Credential should be scoped to service {_SERVICE!r} and end with 'aws4_request'.",
            )
        names = tuple(parts["SignedHeaders"].lower().split(";"))
        if "host" not in names:
            raise _incomplete("'host' must be one of the SignedHeaders")
        return cls(key_id, date, region, service, names, parts["Signature"])


class Verifier:
    """Says whose signature a request bears.

    Args:
        secrets: secret access keys by access-key id. Their signatures are always checked.
        mode: "verified" refuses every other id; "presence" lets them pass, for servers behind a proxy that
            has checked the signature and then edited what was signed.
        now: the clock, in UTC.
    """

    def __init__(
        self,
        secrets: Mapping[str, str],
        mode: Mode = "verified",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._secrets, self._mode, self._now = dict(secrets), mode, now

    def claim(self, headers: Iterable[tuple[str, str]]) -> Claim:
        """What the headers claim, so far as it can be judged before the body has come.

        Raises:
            CredentialError: when it is malformed, its date is off by more than five minutes, or its id is
                not known.
        """
        found = dict(headers)
        claim = Claim.parse(found.get("authorization", ""))
        if self.holds(claim):
            self._fresh(claim, _stamp(found))
        elif self._mode == "verified":
            raise CredentialError(
                "UnrecognizedClientException", "The security token included in the request is invalid."
            )
        return claim

    def holds(self, claim: Claim) -> bool:
        """Whether the secret of its id is held, so that it can be proved."""
        return claim.key_id in self._secrets

    def verify(self, claim: Claim, request: Received) -> None:
        """Check the signature of a claim that `claim` has taken, where its secret is held.

        Raises:
            CredentialError: when it is not the request's.
        """
        if not self.holds(claim):
            return
        payload = hashlib.sha256(request.body).hexdigest()
        declared = request.header("x-amz-content-sha256")
        if declared not in (None, _UNSIGNED, payload):
            raise _mismatch("The provided 'x-amz-content-sha256' header does not match what was computed.")
        canonical = canonical_request(request, claim.signed, declared or payload)
        signed = sign(self._secrets[claim.key_id], claim, _stamp(dict(request.headers)), canonical)
        if not hmac.compare_digest(signed.encode(), claim.signature.encode()):
            raise _mismatch(
                "The request signature we calculated does not match the signature you provided. Check your "
                "AWS Secret Access Key and signing method. Consult the service documentation for details."
            )

    def _fresh(self, claim: Claim, stamp: str) -> None:
        try:
            signed = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
        except ValueError:
            raise _incomplete("the request needs a header 'x-amz-date' like 20261126T120000Z") from None
        if claim.date != stamp[:8]:
            raise _mismatch(
                f"Date in Credential scope does not match x-amz-date: {claim.date} != {stamp[:8]}"
            )
        now = self._now()
        if abs(now - signed) > SKEW:
            late, limit = ("expired", now - SKEW) if signed < now else ("not yet current", now + SKEW)
            order = "earlier" if signed < now else "later"
            raise _mismatch(f"Signature {late}: {stamp} is now {order} than {limit.strftime(_STAMP)}")


def canonical_request(request: Received, signed: Sequence[str], payload: str) -> str:
    """What the client signed, as far as the request shows it.

    Args:
        signed: names of the signed headers, in the client's order.
        payload: hash of the body in hex, or what stands for it.
    """
    query = request.query.decode("latin-1")
    pairs = sorted((key, value) for key, _, value in (pair.partition("=") for pair in query.split("&")))
    query = "&".join(f"{key}={value}" for key, value in pairs) if query else ""
    lines = [
        f"{name}:{','.join(' '.join(value.split()) for key, value in request.headers if key == name)}"
        for name in signed
    ]
    path = quote(_without_dots(request.path), safe="/~")
    return "\n".join([request.method, path, query, *lines, "", ";".join(signed), payload])


def sign(secret: str, claim: Claim, stamp: str, canonical: str) -> str:
    """The signature, in hex.

    Args:
        secret: secret access key.
        claim: for its scope.
        stamp: time of the signature, as `x-amz-date` has it.
        canonical: from `canonical_request`.
    """
    scope = (claim.date, claim.region, claim.service, "aws4_request")
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join([ALGORITHM, stamp, "/".join(scope), digest])
    return hmac.digest(key, text.encode(), "sha256").hex()


def _without_dots(path: bytes) -> bytes:
    """Dot segments resolved (RFC 3986, 5.2.4) and empty segments dropped, as AWS wants it."""
    kept: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    return b"/" + b"/".join(kept) + (b"/" if kept and path.endswith(b"/") else b"")


def _stamp(headers: Mapping[str, str]) -> str:
    return headers.get("x-amz-date", "")


def _incomplete(message: str) -> CredentialError:
    return CredentialError("IncompleteSignatureException", message)


def _mismatch(message: str) -> CredentialError:
    return CredentialError("InvalidSignatureException", message)
