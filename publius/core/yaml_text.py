"""YAML that people write, read so that whatever stands in it ends as a value or as one clear reason.

PyYAML's own loader answers odd texts with Python's errors (an impossible date, a number of 5,000 digits,
a thousand brackets), and reads on in a file without end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

__all__ = ["BadYaml", "YamlLoader", "parse_yaml", "read_text"]

_MOST = 4 << 20
"""Bytes of a file: far more than anybody writes by hand."""


class BadYaml(ValueError):
    """Why a text is no YAML.

    Args:
        problem: what is wrong, in one line.
        line: where, from 1; None where that is not known.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        self.problem, self.line = problem, line
        super().__init__(problem if line is None else f"{problem}, line {line}")


class YamlLoader(yaml.SafeLoader):
    """PyYAML's safe one, which tells the line of every value that is none of its kind."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        # what its constructors raise of `2020-13-45`, `!!int ""`, `!!bool maybe`, `!!timestamp soon`
        except (ValueError, OverflowError, LookupError, AttributeError, TypeError) as error:
            problem = f"this is no {node.tag.rpartition(':')[2]}: {error}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def read_text(path: Path) -> str:
    """The text of a file that a person wrote.

    Raises:
        OSError: for one that cannot be read.
        BadYaml: for one that is too large to be that, or not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(_MOST + 1)
    if len(data) > _MOST:
        raise BadYaml(f"it is larger than {_MOST >> 20} MB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadYaml(
            f"it is not UTF-8 text: {error.reason}", data.count(b"\n", 0, error.start) + 1
        ) from None


def parse_yaml(text: str, loader: type[YamlLoader] = YamlLoader) -> Any:
    """The one document in `text`; None for an empty one.

    Raises:
        BadYaml: for anything else.
    """
    try:
        return loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadYaml(problem, None if mark is None else mark.line + 1) from error
    except RecursionError:
        raise BadYaml("it is nested too deep") from None
