"""What a JSON schema costs a token: rows that must keep to one, and rows that say as many tokens freely.

    python benchmarks/engine_grammar.py --out docs/results
    python benchmarks/engine_grammar.py --quick

Every row has a schema of its own (an object of two to four fields: texts, numbers, choices, lists), the 10M
shape has fresh weights and a tokenizer of 8,192 ids trained on made-up text, and rows are sampled at
temperature 1, one at a time and sixteen at a time. Compiling a grammar is done once and is timed apart. A
workload is run with schemas and without, in turns, without them with as many tokens asked for as the schemas
took; the median of the ratios of their times a token is reported, beside the quartiles. Every text is checked
against its schema. `--quick` is a smoke test, not a measurement.
"""

from __future__ import annotations

import functools
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import jsonschema
import torch
from engines import SHAPES
from harness import child, entry, extra, markdown, options_of, record_of, say, write_record

from publius.core.config import Config
from publius.inference import Engine, Sampling
from publius.inference.grammar import Grammar
from publius.model.transformer import Transformer
from publius.tokenizer.bpe import TokenizerConfig, train_bpe
from publius.tokenizer.tokenizer import Tokenizer

COST = 0.10
"""So much more time a token at most."""


class Work(Config):
    """Rows, and how often they are run."""

    size: str = "10M"
    rows: int = 1
    requests: int = 16
    new: int = 96
    """Most tokens of a text."""
    pairs: int = 40


def tokenizer_of(size: int) -> Tokenizer:
    """A tokenizer of (about) `size` ids of made-up text with JSON's marks in it."""
    rng = random.Random(0)
    syllables = [a + b for a in "bcdfghklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(size)]
    weights = [1 / (i + 10) for i in range(size)]
    lines = [" ".join(rng.choices(words, weights, k=40)) for _ in range(4000)]
    lines += [json.dumps(dict(zip(rng.choices(words, k=3), rng.choices(words, k=3), strict=True)))
              for _ in range(2000)]  # fmt: skip
    return train_bpe(lines, TokenizerConfig(vocab_size=size))


def schema_of(rng: random.Random) -> dict[str, Any]:
    """A small object."""
    kinds: list[dict[str, Any]] = [
        {"type": "string", "minLength": 12, "maxLength": 60},
        {"type": "integer", "minimum": rng.randint(-900, 0), "maximum": rng.randint(1, 90_000)},
        {"enum": [rng.choice(("red", "green")), "blue", rng.randint(0, 99)]},
        {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 2, "maxItems": 4},
        {"type": ["boolean", "null"]},
    ]
    names = rng.sample(("name", "place", "count", "tags", "known", "said"), rng.randint(2, 4))
    fields = {name: rng.choice(kinds) for name in names}
    return {"type": "object", "properties": fields, "required": names, "additionalProperties": False}


def measure(work: Work) -> dict[str, Any]:
    """In a child: seconds a token with schemas and without, in pairs."""
    shape = SHAPES[work.size]
    tokenizer = tokenizer_of(shape.vocab_size)
    model = Transformer(shape, seed=0).eval()
    engine = Engine(model, tokenizer, dtype=torch.bfloat16, max_batch=work.rows)
    pairs: list[list[float]] = []
    compiling: list[float] = []
    for number in range(work.pairs + 1):
        rng = random.Random(number)
        schemas = [schema_of(rng) for _ in range(work.requests)]
        kept = [
            Sampling(max_tokens=work.new, seed=i, grammar=Grammar.json_schema(schema))
            for i, schema in enumerate(schemas)
        ]
        start = time.perf_counter()
        for one in kept:  # a grammar is compiled when it is first asked for
            engine.cancel(engine.submit([tokenizer.bos_id], one))
        compiling.append((time.perf_counter() - start) / work.requests)
        guided, lengths = run(engine, kept, schemas, rng)
        free = [Sampling(max_tokens=most, seed=i) for i, most in enumerate(lengths)]
        pairs.append([guided, run(engine, free, [], rng)[0]])
    return {"pairs": pairs[1:], "compiling": statistics.median(compiling)}  # the first warms up


def run(
    engine: Engine, samplings: list[Sampling], schemas: list[dict[str, Any]], rng: random.Random
) -> tuple[float, list[int]]:
    """Seconds a token, and how many each row said; what has ended must match its schema."""
    ids = range(engine.tokenizer.vocab_size // 2, engine.tokenizer.vocab_size)
    prompts = [rng.choices(ids, k=32) for _ in samplings]
    start = time.perf_counter()
    done = engine.generate(prompts, samplings)
    seconds = time.perf_counter() - start
    for one, schema in zip(done, schemas, strict=False):
        if one.stop_reason == "end":
            jsonschema.validate(json.loads(engine.tokenizer.decode(one.tokens[:-1])), schema)
    lengths = [len(one.tokens) for one in done]
    return seconds / sum(lengths), lengths


def table(found: list[tuple[Work, dict[str, Any]]]) -> str:
    """Markdown: a line for each number of rows."""
    lines: list[list[str]] = []
    for work, result in found:
        if "error" in result:
            lines.append([str(work.rows), result["error"], "", "", "", ""])
            continue
        more = extra(result["pairs"])
        guided, free = (statistics.median(side) for side in zip(*result["pairs"], strict=True))
        verdict = "met" if more["median"] <= COST else "missed"
        lines.append(
            [
                str(work.rows),
                f"{1 / guided:,.0f} tokens/s",
                f"{1 / free:,.0f} tokens/s",
                f"{more['median']:+.1%} ({more['low']:+.1%} to {more['high']:+.1%})",
                f"{COST:.0%}: {verdict}",
                f"{result['compiling'] * 1e3:.1f} ms",
            ]
        )
    return markdown(["rows", "with a schema", "without", "more time a token", "wanted", "compiling"], lines)


def main() -> None:
    """Measure, record, print."""
    parser = options_of(__doc__, "1M, few and short texts", 1200.0)
    parser.add_argument("--size", choices=list(SHAPES), default="10M")
    parser.add_argument("--pairs", type=int, default=40)
    options = parser.parse_args()
    few: dict[str, Any] = {"requests": 4, "new": 24} if options.quick else {}
    if options.quick:
        options.size, options.pairs = "1M", 2
    works = [Work(size=options.size, rows=1, pairs=options.pairs, **few)]
    works.append(works[0].model_copy(update={"rows": 16, "requests": 4 if options.quick else 32}))
    ask = functools.partial(child, Path(__file__), "measure", seconds=options.limit, threads=options.threads)
    found = [(work, ask(payload=work.model_dump(mode="json"))) for work in works]
    print(table(found))
    if options.out is not None:
        record = record_of(
            torch.device("cpu"), threads=options.threads,
            cases=[{"work": work.model_dump(mode="json"), **result} for work, result in found],
        )  # fmt: skip
        say(f"written: {write_record(options.out, 'engine-grammar', record)}")


if __name__ == "__main__":
    entry(main, {"measure": lambda payload: measure(Work.model_validate(payload))})
