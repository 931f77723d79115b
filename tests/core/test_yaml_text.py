"""YAML of people: any text is a value or one clear reason."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.core.yaml_text import BadYaml, parse_yaml, read_text


def test_a_good_text_is_its_value(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("a: [1, é]\r\nb: 2020-12-24\r\n".encode())
    found = parse_yaml(read_text(tmp_path / "a.yaml"))
    assert found["a"] == [1, "é"] and found["b"].year == 2020
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("a: 1\nb: [", "expected the node content, but found '<stream end>'", 2),
        ("a: 1\nb: 2020-13-45", "this is no timestamp: month must be in 1..12", 2),
        ("a: " + "9" * 5000, "this is no int: Exceeds the limit", 1),
        ("\n- !!int ''", "this is no int: ", 2),
        ("!!bool maybe", "this is no bool: ", 1),
        ("!!timestamp soon", "this is no timestamp: ", 1),
        ("!!python/object:os.system x", "could not determine a constructor", 1),
        ("[" * 3000, "it is nested too deep", None),
        ("a\x00", "unacceptable character", None),
    ],
)
def test_a_bad_text_has_a_reason_and_a_line(text: str, problem: str, line: int | None) -> None:
    with pytest.raises(BadYaml) as error:
        parse_yaml(text)
    assert error.value.problem.startswith(problem) and error.value.line == line
    assert "\n" not in str(error.value)


@given(st.text("!:-[]{}&*?|>'\"%@ \n\tab01.<", max_size=30))
def test_nothing_else_is_ever_raised(text: str) -> None:
    try:
        parse_yaml(text)
    except BadYaml as error:
        assert error.problem


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(BadYaml, match="larger than 4 MB"):
        read_text(Path("/dev/zero"))
    (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(BadYaml, match="not UTF-8 text: invalid start byte, line 2"):
        read_text(tmp_path / "a.yaml")
