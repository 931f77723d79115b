"""The certificate of a server that speaks TLS: one's own, or one made for this machine."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from publius.core.errors import UserError

__all__ = ["certificate_files", "self_signed"]

_DAYS = 365


def certificate_files(
    certificate: Path | None, key: Path | None, make: bool, host: str, home: Path
) -> tuple[Path, Path] | None:
    """Files of certificate and private key, None for plain HTTP.

    Args:
        certificate, key: PEM files of one's own.
        make: make them in `home`, signed by nobody else, unless valid ones lie there.

    Raises:
        UserError: for one file without the other, or one that is not there.
    """
    if make:
        return self_signed(home / "tls", host)
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UserError("TLS needs two files", where="--tls-cert, --tls-key", fix="give both")
    for file in (certificate, key):
        if not file.is_file():
            raise UserError("there is no such file", where=str(file), fix="give a PEM file")
    return certificate, key


def self_signed(folder: Path, host: str, *, now: datetime | None = None) -> tuple[Path, Path]:
    """A certificate for localhost and `host`, made anew when a day or less is left of the last one.

    Clients must be told to trust the file (`AWS_CA_BUNDLE`, `SSL_CERT_FILE`).
    """
    now = now or datetime.now(UTC)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = _names(host)
    if certificate.is_file() and key.is_file() and _serves(certificate, names, now):
        return certificate, key
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "publius")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for file, content, mode in ((key, pem, 0o600), (certificate, made.public_bytes(Encoding.PEM), 0o644)):
        partial = file.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
            out.write(content)
        partial.replace(file)
    return certificate, key


def _names(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    try:
        named: x509.GeneralName = x509.IPAddress(ip_address(host))
    except ValueError:
        try:
            named = x509.DNSName(host.encode("idna").decode())
        except UnicodeError:
            raise UserError(
                f"{host!r} is no name that a certificate can hold", where="--host", fix="give its address"
            ) from None
    return names if named in names or host in ("0.0.0.0", "::") else [*names, named]


def _serves(file: Path, names: list[x509.GeneralName], now: datetime) -> bool:
    try:
        found = x509.load_pem_x509_certificate(file.read_bytes())
        held = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    return found.not_valid_after_utc > now + timedelta(days=1) and all(name in list(held) for name in names)
