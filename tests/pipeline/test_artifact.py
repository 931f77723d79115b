"""Artifacts and records."""

import pytest

from publius.core.errors import UserError
from publius.pipeline import Artifact, Record


def test_file_names_what_is_missing(tmp_path):
    artifact = Artifact(tmp_path)
    with pytest.raises(UserError, match=r"Artifact has no file 'x.json'") as caught:
        artifact.file("x.json")
    assert str(tmp_path) in caught.value.where
    (tmp_path / "x.json").write_text("{}")
    assert artifact.file("x.json") == tmp_path / "x.json"
    assert repr(artifact) == f"Artifact({str(tmp_path)!r})"


def test_record_is_read_from_beside_the_payload(tmp_path):
    payload = tmp_path / "files"
    payload.mkdir()
    assert Artifact(payload).record is None
    written = Record(stage="s", version=2, id="ab" * 32, config={"steps": 3})
    (tmp_path / "record.json").write_text(written.model_dump_json())
    assert Artifact(payload).record == written


@pytest.mark.parametrize("damage", [b"{", b'{"stage": "s"}', b"\xff\xfe"])
def test_damaged_record_is_a_user_error(tmp_path, damage):
    (tmp_path / "files").mkdir()
    (tmp_path / "record.json").write_bytes(damage)
    with pytest.raises(UserError, match="a record is damaged") as caught:
        _ = Artifact(tmp_path / "files").record
    assert "record.json" in caught.value.where
