"""The engine's own timing: complete, consistent, and refused where it cannot be."""

from __future__ import annotations

import json

import pytest
import torch

from publius.core.errors import UserError
from publius.inference import bench
from publius.testing import tiny_config


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_ROUNDS", 1)
    monkeypatch.setattr(bench, "_READ", 1 << 16)
    monkeypatch.setattr(bench, "_SIDE", 32)


def test_every_dtype_and_row_has_a_line() -> None:
    found = bench.bench_engine(tiny_config(), torch.device("cpu"), prompt=5, tokens=3, rows=(1, 4))
    kinds = ["float32", "bfloat16", "int8"][: 3 if "native" in found.native else 2]
    assert [(line.dtype, line.rows) for line in found.lines] == [(k, n) for k in kinds for n in (1, 4)]
    for line in found.lines:
        assert line.reached == line.written_per_second / line.roofline > 0
        assert line.read_per_second == pytest.approx(line.rows * 5 / line.first_token_ms * 1e3)
    shown = found.as_dict()
    assert json.loads(json.dumps(shown))["lines"][0]["reached"] == found.lines[0].reached
    assert len(found.text().splitlines()) == 3 + len(found.lines)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="exceed the context"):
        bench.bench_engine(tiny_config(max_position=8), torch.device("cpu"), prompt=8, tokens=3)
