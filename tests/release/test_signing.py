from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from publius.core.errors import UserError
from publius.release import public_key, sign, signing_key, verify
from publius.release.signing import canonical_bytes, key_path, make_key, read_key, trust, trusted_signers


def test_the_key_is_made_once_and_private() -> None:
    key = signing_key()
    assert public_key(signing_key()) == public_key(key)
    assert stat.S_IMODE(key_path().stat().st_mode) == 0o600
    assert key_path().parts[-2:] == ("publius", "signing_key.pem")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(json_values, json_values)
def test_only_the_signed_document_verifies(document: object, another: object) -> None:
    key = signing_key()
    signature = sign(document, key)
    verify(document, signature, [public_key(key)])
    if canonical_bytes(another) != canonical_bytes(document):
        with pytest.raises(UserError, match="changed after signing"):
            verify(another, signature, [public_key(key)])


def test_other_signers_and_broken_signatures_are_refused() -> None:
    key = signing_key()
    signature = sign({"a": 1}, key)
    with pytest.raises(UserError, match="not trusted"):
        verify({"a": 1}, signature, [])
    for broken in ("zz", signature.signature[:-2] + ("00" if signature.signature[-2:] != "00" else "01")):
        with pytest.raises(UserError, match="changed after signing"):
            verify({"a": 1}, signature.model_copy(update={"signature": broken}), [public_key(key)])
    with pytest.raises(UserError, match="not trusted"):
        verify({"a": 1}, signature.model_copy(update={"algorithm": "none"}), [public_key(key)])


def test_the_canonical_form_has_one_order_and_no_nan() -> None:
    assert canonical_bytes({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'.encode()
    with pytest.raises(ValueError):
        canonical_bytes(float("nan"))


def test_a_key_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signing_key()
    pem = key_path().read_bytes()
    own = public_key(signing_key())
    file = tmp_path / "k.pem"
    file.write_bytes(pem)
    file.chmod(0o600)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "empty"))
    for value in (str(file), pem.decode()):
        monkeypatch.setenv("PUBLIUS_SIGNING_KEY", value)
        assert public_key(signing_key()) == own
    assert not (tmp_path / "empty").exists()
    file.chmod(0o644)
    monkeypatch.setenv("PUBLIUS_SIGNING_KEY", str(file))
    with pytest.raises(UserError, match="readable by others"):
        signing_key()
    monkeypatch.setenv("PUBLIUS_SIGNING_KEY", str(tmp_path / "missing.pem"))
    with pytest.raises(UserError, match="does not exist"):
        signing_key()


def test_what_is_not_an_ed25519_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rsa = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (rsa, b"not a key"):
        file = tmp_path / "k.pem"
        file.write_bytes(content)
        file.chmod(0o600)
        monkeypatch.setenv("PUBLIUS_SIGNING_KEY", str(file))
        with pytest.raises(UserError, match="not an unencrypted Ed25519"):
            signing_key()


def test_a_key_that_cannot_be_made_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot make a signing key"):
        signing_key()
    (tmp_path / "folder").mkdir(mode=0o700)
    monkeypatch.setenv("PUBLIUS_SIGNING_KEY", str(tmp_path / "folder"))
    with pytest.raises(UserError, match="cannot read the signing key"):
        signing_key()


def test_a_full_disk_leaves_keys_and_trust_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    first, second = ("11" * 32, "22" * 32)
    listed = trust("approver", first)
    before = {path.name for path in listed.parent.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="the disk is full"):
            trust("approver", second)
        with pytest.raises(UserError, match="cannot make a signing key: No space left"):
            make_key("approver")
    assert {path.name for path in listed.parent.iterdir()} == before
    assert trusted_signers()["approver"] == [first]
    made = make_key("approver")
    assert stat.S_IMODE(made.stat().st_mode) == 0o600 and made == make_key("approver")
    assert trusted_signers()["approver"] == [public_key(read_key(made)), first]


@pytest.mark.parametrize("role", ["", "../..", "a b", "approver/x"])
def test_a_role_is_a_word(role: str) -> None:
    with pytest.raises(UserError, match="cannot name a role"):
        trust(role, public_key(signing_key()))
    with pytest.raises(UserError, match="cannot name a role"):
        make_key(role)
