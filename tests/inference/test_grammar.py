"""What a grammar promises: every reply matches it, the draw stays the model's, and no other row notices."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import torch

from publius.core.errors import UserError
from publius.inference.engine import Engine
from publius.inference.grammar import Grammar
from publius.inference.guide import Guides
from publius.inference.sampling import Sampling
from publius.testing import tiny_model
from tests.inference.guided import (
    BOTH,
    ENGINE,
    PROMPT,
    THINK,
    TOKENIZER,
    USE,
    USED,
    WORD,
    one,
    text_of,
)

# ---- schemas ----


class Schemas:
    """Random schemas that something small matches."""

    PATTERNS = ("^[a-c]{1,4}$", "^\\d{2}-\\d{2}$", "^(yes|no|naïve)$", "^x+y?$", "ab", "^[^a-z]{2}$")

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.defs: dict[str, Any] = {}

    def root(self) -> dict[str, Any]:
        """Mostly an object; what is referred to lies under its `$defs`."""
        made = self.object(3, least=3) if self.rng.random() < 0.8 else self.schema(3)
        return {**made, "$defs": self.defs} if self.defs else made

    def schema(self, depth: int) -> dict[str, Any]:
        leaves = (self.string, self.integer, self.number, self.choice, self.plain)
        inner = (self.object, self.object, self.array, self.either, self.shared)
        made = self.rng.choice(leaves if depth == 0 or self.rng.random() < 0.4 else inner)
        return made(depth - 1)

    def string(self, depth: int) -> dict[str, Any]:
        least = self.rng.randint(0, 3)
        bounds = {"minLength": least, "maxLength": least + self.rng.randint(0, 5)}
        pattern = self.rng.choice(self.PATTERNS)
        wide = {"pattern": pattern, "maxLength": 9}
        kinds = (bounds, {"maxLength": 6}, wide, {"format": "ipv4"}, {"format": "uuid"})
        return {"type": "string", **self.rng.choice(kinds)}

    def integer(self, depth: int) -> dict[str, Any]:
        low = self.rng.randint(-10_000, 10_000)
        bounds: dict[str, Any] = {"minimum": low, "maximum": low + self.rng.randint(0, 3000)}
        if self.rng.random() < 0.3:
            bounds = {"exclusiveMinimum": low, "exclusiveMaximum": low + self.rng.randint(2, 50)}
        elif self.rng.random() < 0.3:
            bounds |= {"multipleOf": self.rng.choice((2, 5, 7)), "maximum": low + 100}
        return {"type": "integer", **bounds}

    def number(self, depth: int) -> dict[str, Any]:
        low = self.rng.randint(-100, 100)
        return {
            "type": "number",
            "minimum": low,
            "maximum": low + 10,
            "multipleOf": self.rng.choice((0.5, 0.25)),
        }

    def choice(self, depth: int) -> dict[str, Any]:
        values = ["red", 'a "quoted" one', "naïve\n", 3, -2.5, True, None, [1, "x"], {"k": [None]}]
        if self.rng.random() < 0.3:
            return {"const": self.rng.choice(values)}
        return {"enum": self.rng.sample(values, self.rng.randint(1, 5))}

    def plain(self, depth: int) -> dict[str, Any]:
        return {"type": self.rng.choice(("boolean", "null", ["boolean", "null"]))}

    def object(self, depth: int, least: int = 0) -> dict[str, Any]:
        names = self.rng.sample(("a", "b", "long name", "é", 'q"', "kind"), self.rng.randint(least, 4))
        properties = {name: self.schema(depth) for name in names}
        required = [name for name in names if self.rng.random() < 0.6]
        return {
            "type": "object", "properties": properties, "required": required, "additionalProperties": False,
        }  # fmt: skip

    def array(self, depth: int) -> dict[str, Any]:
        least = self.rng.randint(0, 2)
        bounds = {"minItems": least, "maxItems": least + self.rng.randint(0, 2)}
        return {"type": "array", "items": self.schema(depth), **bounds}

    def either(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self.schema(depth) for _ in range(self.rng.randint(1, 3))]}

    def shared(self, depth: int) -> dict[str, Any]:
        name = f"it{len(self.defs)}"
        self.defs[name] = True  # taken, while what it names is made
        self.defs[name] = self.schema(depth)
        return {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]}


def test_500_random_schemas_are_all_kept_greedy_and_sampled() -> None:
    """In one call, with fewer rows than requests."""
    schemas = [Schemas(seed).root() for seed in range(500)]
    samplings: list[Sampling] = []
    for i, schema in enumerate(schemas):
        heat = (0.0, 1.0, 1.5)[i % 3]
        grammar = Grammar.json_schema(schema)
        samplings.append(Sampling(max_tokens=900, temperature=heat, seed=i, grammar=grammar))
    prompts = [[1, *TOKENIZER.encode(f"{i}: {'x' * (i % 40)}")] for i in range(500)]
    engine = Engine(tiny_model(1, max_position=1024), TOKENIZER, max_batch=32)
    done = engine.generate(prompts, samplings)
    assert [c.stop_reason for c in done] == ["end"] * 500
    for schema, completion in zip(schemas, done, strict=True):
        value = json.loads(text_of(completion))
        validator = jsonschema.Draft202012Validator
        validator(schema, format_checker=validator.FORMAT_CHECKER).validate(value)
        assert all(logprob <= 1e-6 for logprob in completion.logprobs)
    assert len({text_of(c) for c in done}) > 300


# ---- other grammars ----


@pytest.mark.parametrize(
    "pattern",
    ["(ab|cd){2,5}", "^\\d{3}-[xyz]$", "", "naïve|né+x", "[^a-z\\s]{4}", "(?i:yes|no)", "\\(.{0,3}\\)/"],
)
def test_the_whole_reply_matches_the_pattern(pattern: str) -> None:
    done = ENGINE.generate([PROMPT] * 6, Sampling(max_tokens=200, seed=3, grammar=Grammar.regex(pattern)))
    for completion in done:
        assert re.fullmatch(pattern, text_of(completion))


def test_lark_with_special_tokens() -> None:
    grammar = Grammar.lark('start: <|think|> /[a-z]{3,5}/ <[8]> sum\nsum: N ("+" N){1,2}\nN: /[1-9]/')
    for seed in range(8):
        assert re.fullmatch(
            r"<\|think\|>[a-z]{3,5}<\|/think\|>\d(\+\d){1,2}", text_of(one(grammar, seed=seed))
        )


# ---- what is refused ----


@pytest.mark.parametrize(
    ("grammar", "match"),
    [
        (Grammar.json_schema({"type": "integer", "minimum": 5, "maximum": 3}), "minimum"),
        (Grammar.json_schema({"type": "strin"}), "strin"),
        (Grammar.json_schema({"type": "string", "pattern": "("}), "unclosed"),
        (Grammar.json_schema({"not": {}, "x-guidance": {"lenient": True}}), "not"),
        (Grammar.json_schema({"$ref": "#/nowhere"}), "nowhere"),
        (
            Grammar.json_schema({"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"}),
            "met",
        ),
        (Grammar.json_schema({"maximum": 10**400}), "request 1: Sampling.grammar"),
        (Grammar.regex("a(?=b)"), "look-around"),
        (Grammar.regex("[^\\s\\S]"), "nothing|met"),
        (Grammar.regex("(a?){5000}a{5000}"), "too many"),
        (Grammar.lark("start: nowhere"), "nowhere"),
        (Grammar.lark('start: <[999]> "x"'), "999"),
        (Grammar.lark("start: A\nA: /a/ & /b/"), "met"),
        (WORD.placed(begin=300), "id 300"),
        (WORD.placed(end=(USE, -1)), "id -1"),
    ],
    ids=str,
)
def test_what_nothing_can_match_is_refused_before_compute(
    grammar: Grammar, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = one(None, max_tokens=5)
    running = ENGINE.submit(PROMPT, Sampling(max_tokens=5, seed=1))
    bad = Sampling(grammar=grammar)
    with monkeypatch.context() as patched:
        patched.setattr(ENGINE, "step", None)
        with pytest.raises(UserError, match=match) as error:
            ENGINE.generate([PROMPT, PROMPT], [Sampling(), bad])
        assert error.value.where.startswith("request 1: Sampling.grammar")
        for refused in (ENGINE.submit, ENGINE.stream):
            with pytest.raises(UserError, match="request 0"):
                refused(PROMPT, bad)
    while ENGINE.step():
        pass
    assert running.completion() == expected
    assert ENGINE.stats.pages == 0


@pytest.mark.parametrize(
    ("made", "where"),
    [
        (lambda: Grammar.json_schema({"multipleOf": 999983}), "multipleOf"),
        (lambda: Grammar.json_schema({"allOf": [{"multipleOf": 997}, {"multipleOf": 0.991}]}), "multipleOf"),
        (lambda: Grammar.json_schema({"enum": [math.nan]}), "Grammar.json_schema"),
        (lambda: Grammar.json_schema({"enum": [{1, 2}]}), "Grammar.json_schema"),
        (lambda: Grammar.json_schema([]), "Grammar.json_schema"),  # pyright: ignore[reportArgumentType]
        (lambda: WORD.placed(lead="text"), "Grammar.lead"),
        (lambda: WORD.placed(then="free"), "Grammar.then"),
        (lambda: Sampling(thinking_budget=-1), "Sampling.thinking_budget"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_said(made: Any, where: str) -> None:
    with pytest.raises(UserError) as error:
        made()
    assert where in error.value.where


@BOTH
def test_a_row_that_cannot_go_on_ends_alone(native: bool) -> None:
    """Its grammar wants what its biases forbid."""
    engine = Engine(tiny_model(0), TOKENIZER, native=native)
    banned = dict.fromkeys(TOKENIZER.encode("b"), -math.inf)
    good = engine.submit(PROMPT, Sampling(max_tokens=20, seed=1, grammar=WORD))
    bad = engine.submit(PROMPT, Sampling(max_tokens=20, logit_bias=banned, grammar=Grammar.regex("aab")))
    free = engine.submit(PROMPT, Sampling(max_tokens=20, temperature=0))
    while engine.step():
        pass
    assert (bad.stop_reason, TOKENIZER.decode(bad.tokens[:2])) == ("error", "aa")
    with pytest.raises(UserError, match=r"cannot go on(.|\n)*Sampling\.grammar"):
        bad.completion()
    assert re.fullmatch("[a-c]{2,4}", text_of(good.completion()))
    assert free.stop_reason == "max_tokens"
    assert engine.stats.pages == 0


# ---- the draw ----


@BOTH
def test_the_draw_is_the_models_among_what_may_come(native: bool) -> None:
    engine = Engine(tiny_model(0, scale=3.0), TOKENIZER, native=native)
    letters = TOKENIZER.encode("abc")
    scores = [score for [score] in engine.score([PROMPT] * 3, [[letter] for letter in letters])]
    share = torch.tensor(scores).softmax(-1)
    sampling = Sampling(max_tokens=1, seed=5, grammar=Grammar.regex("[abc]"), alternatives=5)
    done = engine.generate([PROMPT] * 1000, sampling)
    drawn = [letters.index(c.tokens[0]) for c in done]
    for i in range(3):
        assert drawn.count(i) / 1000 == pytest.approx(share[i].item(), abs=0.05)
    for place, completion in zip(drawn, done, strict=True):
        assert completion.logprobs[0] == pytest.approx(share[place].log().item(), abs=1e-4)
    assert {token for token, _ in done[0].alternatives[0]} == set(letters)  # and no other


CALLS = {"grammar": WORD.placed(begin=USE, end=USED, then="free", lead="anything"), "logit_bias": {USE: 12.0}}
KINDS: tuple[dict[str, Any], ...] = (
    {}, {"grammar": Grammar.json_schema(Schemas(1).root())}, {"grammar": Grammar.regex("(ab|[0-9]){3,30}")},
    CALLS, {"thinking_budget": 4, "logit_bias": {THINK: 12.0}}, {"top_p": 0.7},
)  # fmt: skip


@BOTH
def test_rows_are_the_same_alone_and_beside_any_others(native: bool) -> None:
    """In few pages, so that rows are preempted and read again; with guesses, which free rows alone take."""
    rng = random.Random(0)
    count, most = (24, 60) if native else (6, 20)
    prompts = [[1, *(rng.randrange(13, 269) for _ in range(rng.randint(1, 40)))] for _ in range(count)]
    samplings = [
        Sampling(max_tokens=most, temperature=rng.choice((0.0, 1.0)), seed=i, **KINDS[i % len(KINDS)])
        for i in range(count)
    ]
    engine = Engine(
        tiny_model(3), TOKENIZER, max_batch=5, step_tokens=16, cache_tokens=128, speculate=3, native=native
    )
    together = engine.generate(prompts, samplings)
    single = Engine(tiny_model(3), TOKENIZER, max_batch=1, native=native)
    assert engine.stats.preempted > 0
    assert engine.stats.guessed > 0
    assert engine.stats.pages == 0
    for prompt, sampling, completion in zip(prompts, samplings, together, strict=True):
        alone = single.generate([prompt], sampling)[0]
        assert alone.tokens == completion.tokens
        assert alone.stop_reason == completion.stop_reason
        assert alone.logprobs == pytest.approx(completion.logprobs, abs=0 if native else 1e-3)


def test_streamed_is_generated() -> None:
    sampling = Sampling(max_tokens=150, seed=2, grammar=Grammar.json_schema(Schemas(5).root()))
    assert tuple(ENGINE.stream(PROMPT, sampling)) == ENGINE.generate([PROMPT], sampling)[0].tokens


def test_one_grammar_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    guides = Guides(TOKENIZER)
    first = guides.guide(0, PROMPT, Sampling(grammar=WORD))
    monkeypatch.setattr(guides, "_made", None)
    second = guides.guide(1, PROMPT, replace(Sampling(), grammar=WORD.placed(begin=USE)))
    assert first is not second
    assert guides.guide(0, PROMPT, Sampling()) is None


@pytest.mark.parametrize("number", [-(2**63), -(2**63) + 2, -(2**63) + 512, -(2**63) - 1, -(2.0**63)])
def test_a_number_that_would_end_the_process_is_refused(number):
    for schema in ({"enum": [number, 2]}, {"properties": {"a": {"const": [{"b": number}]}}}):
        with pytest.raises(UserError, match="holds the number"):
            Grammar.json_schema(schema)
    Grammar.json_schema({"enum": [-(2**63) + 1024, -(2**63) - 2048, -1e300, 10**400]})
