"""The finding record: files of older versions are still read, and say of what is new that nobody said."""

import json

import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.redteam.findings import CellCount, Finding, Findings, FindingsDocument, read_rows, write_rows

OLD = {
    "id": "a", "round": 0, "style": "direct", "sealed": False, "split": "train", "category": "poison",
    "entity": "grey bane", "conversation": Conversation(messages=(user("How?"),)).model_dump(mode="json"),
    "reply": "So.", "score": 1.0, "reproduced": 3, "tries": 5, "model": "f" * 64,
}  # fmt: skip


def test_files_of_older_versions_are_read(tmp_path):
    (tmp_path / "findings.jsonl").write_text(json.dumps(OLD) + "\n")
    (finding,) = Findings(tmp_path).findings()
    assert finding.chain == () and finding.severity is None and finding.cluster == "" and not finding.benign
    document = {
        "model": "f", "round": 0, "split": "test", "metrics": {}, "by_style": {}, "by_category": {},
        "sealed_styles": [], "tried": 1, "hits": 0, "confirmed": 0,
    }  # fmt: skip
    (tmp_path / "findings.json").write_text(json.dumps(document))
    read = Findings(tmp_path).document()
    assert isinstance(read, FindingsDocument) and read.cells == () and read.clusters is None


def test_a_field_nobody_knows_is_damage(tmp_path):
    (tmp_path / "findings.jsonl").write_text(json.dumps({**OLD, "extra": 1}) + "\n")
    with pytest.raises(UserError, match="damaged"):
        Findings(tmp_path).findings()
    assert Finding.model_validate(OLD).language == "en"


def test_what_else_parts_lines_stands_in_a_row(tmp_path):
    """JSON leaves U+2028 and U+0085 as they are; only a line feed ends a row."""
    row = CellCount(category="a\u2028b\u0085c", style="\x0b", turns="1", language="en", tried=1, succeeded=0)
    write_rows(tmp_path / "rows.jsonl", [row, row])
    assert read_rows(tmp_path / "rows.jsonl", CellCount) == [row, row]
