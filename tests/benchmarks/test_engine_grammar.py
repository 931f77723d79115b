"""What schemas cost, told right; and one quick run."""

from __future__ import annotations

import json
import random
import sys

import engine_grammar as bench
import jsonschema

from publius.inference.grammar import Grammar


def test_schemas_are_small_objects_that_can_be_kept():
    rng = random.Random(0)
    for _ in range(50):
        schema = bench.schema_of(rng)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert 2 <= len(schema["properties"]) <= 4 and Grammar.json_schema(schema)


def test_the_tokenizer_has_about_as_many_ids():
    assert 1500 < bench.tokenizer_of(2048).vocab_size <= 2048


def test_the_median_is_reported_and_judged():
    assert bench.extra([[1.2, 1.0]]) == {"median": 1.2 - 1, "low": 1.2 - 1, "high": 1.2 - 1}
    work = bench.Work(rows=16)
    line = {"pairs": [[1.05, 1.0], [1.2, 1.0], [1.0, 1.0]], "compiling": 0.001}
    assert "+5.0%" in bench.table([(work, line)]) and "met" in bench.table([(work, line)])
    assert "missed" in bench.table([(work, {"pairs": [[1.2, 1.0]], "compiling": 0.001})])
    assert "killed" in bench.table([(work, {"error": "killed"})])


def test_quick(tmp_path, monkeypatch, capsys):
    def here(script, handler, payload, *, seconds, threads):
        return json.loads(json.dumps(bench.measure(bench.Work.model_validate(payload))))

    monkeypatch.setattr(bench, "child", here)
    monkeypatch.setattr(sys, "argv", ["engine_grammar.py", "--quick", "--out", str(tmp_path)])
    bench.main()
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert [len(case["pairs"]) for case in record["cases"]] == [2, 2]
    assert "with a schema" in capsys.readouterr().out
