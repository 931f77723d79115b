"""Certificates of one's own making."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.serve.tls import certificate_files, self_signed


def test_a_certificate_is_made_once_and_made_anew_near_its_end_or_for_another_name(tmp_path: Path):
    certificate, key = self_signed(tmp_path / "tls", "127.0.0.1")
    first = certificate.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    context = ssl.create_default_context(cafile=str(certificate))
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    assert context.get_ca_certs()
    self_signed(tmp_path / "tls", "localhost")
    assert certificate.read_bytes() == first
    self_signed(tmp_path / "tls", "models.example")
    second = certificate.read_bytes()
    assert second != first
    self_signed(tmp_path / "tls", "models.example", now=datetime.now(UTC) + timedelta(days=365))
    assert certificate.read_bytes() != second


def test_one_file_without_the_other_and_a_missing_one_are_refused(tmp_path: Path):
    assert certificate_files(None, None, False, "localhost", tmp_path) is None
    with pytest.raises(UserError, match="two files"):
        certificate_files(tmp_path / "c.pem", None, False, "localhost", tmp_path)
    with pytest.raises(UserError, match="no such file"):
        certificate_files(tmp_path / "c.pem", tmp_path / "k.pem", False, "localhost", tmp_path)


def test_a_name_that_no_certificate_can_hold_is_refused_and_a_foreign_one_is_written_in_ascii(tmp_path: Path):
    with pytest.raises(UserError, match="no name that a certificate can hold"):
        self_signed(tmp_path / "tls", "a" * 64 + "é.example")
    certificate, _ = self_signed(tmp_path / "tls", "mühle.example")
    assert b"xn--mhle-0ra.example" in ssl.PEM_cert_to_DER_cert(certificate.read_text())
