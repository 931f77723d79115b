"""Which tokens may come next: a grammar's place in the reply, budgets of thinking, ids that never come."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from publius.core.messages import ToolSpec
from publius.inference.engine import Engine
from publius.inference.grammar import Grammar
from publius.inference.guide import Guides
from publius.inference.readings import Probe
from publius.inference.request import Completion, Request
from publius.inference.sampling import Sampling
from publius.inference.tool_choice import choosing
from publius.testing import tiny_model
from publius.tokenizer.bpe import TokenizerConfig, train_bpe
from tests.inference.guided import (
    END,
    PROMPT,
    SPECIAL,
    THINK,
    THOUGHT,
    TOKENIZER,
    USE,
    USED,
    WORD,
    one,
    text_of,
)

CALL = rf"{re.escape('<|tool_use|>')}[a-c]{{2,4}}{re.escape('<|/tool_use|>')}"


def test_a_grammar_that_must_come_after_a_token() -> None:
    forced = one(WORD.placed(begin=USE, end=USED))
    assert re.fullmatch(CALL, text_of(forced))
    assert forced.logprobs[0] == forced.logprobs[-1] == 0  # one token could come, and its odds were even so
    for seed in range(5):  # free text, which cannot end before
        bias = {END: 30.0, USE: 12.0}
        done = one(
            WORD.placed(begin=[USE, SPECIAL["<|tools|>"]], end=USED, lead="text"), seed=seed, logit_bias=bias
        )
        assert re.search(CALL + "$", text_of(done))


def test_a_grammar_that_may_come_and_come_again() -> None:
    placed = WORD.placed(begin=USE, end=USED, then="free", lead="anything")
    done = one(placed, logit_bias={USE: 60.0, END: -math.inf}, max_tokens=100)
    whole = TOKENIZER.decode(done.tokens)
    assert done.stop_reason == "max_tokens"
    assert len(re.findall(CALL, whole)) > 10
    assert len(re.findall(CALL, whole)) >= whole.count("<|/tool_use|>")
    free = one(None)
    never = one(placed, logit_bias={USE: -math.inf})
    assert never.tokens == free.tokens  # what it may leave out, it changes nothing by
    opened = one(placed, [*PROMPT, THINK], logit_bias={USE: 60.0, THOUGHT: -math.inf}, max_tokens=50)
    assert set(opened.tokens) == {USE}  # in thinking no call begins


@pytest.mark.parametrize("opened", [False, True])
def test_thinking_is_finished_first(opened: bool) -> None:
    prompt = [*PROMPT, THINK] if opened else PROMPT
    lead = "nothing" if opened else "thinking"
    for seed in range(5):
        bias = {THINK: 30.0, THOUGHT: 14.0, END: 30.0}
        done = one(WORD.placed(lead=lead), prompt, seed=seed, logit_bias=bias)
        head, _, tail = text_of(done).rpartition("<|/think|>")
        assert re.fullmatch("[a-c]{2,4}", tail)
        assert head.startswith("<|think|>") is not opened
        assert "<|" not in head.removeprefix("<|think|>")
    assert re.fullmatch("[a-c]{2,4}", text_of(one(WORD.placed(lead=lead))))


def budget_of(done: Completion) -> int:
    """Tokens of thinking before the first end of it."""
    return done.tokens.index(THOUGHT) - (done.tokens[0] == THINK)


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_thinking_ends_with_its_budget(budget: int) -> None:
    never = {THOUGHT: -30.0, END: -math.inf}
    opened = one(None, [*PROMPT, THINK], thinking_budget=budget, logit_bias=never, max_tokens=20)
    assert budget_of(opened) == budget
    begun = one(None, thinking_budget=budget, logit_bias={**never, THINK: 60.0}, max_tokens=30)
    assert (begun.tokens[0] == THINK) is (budget > 0)
    if budget:
        assert budget_of(begun) == budget
        assert THINK not in begun.tokens[begun.tokens.index(THOUGHT) :]  # no second block
    soon = one(None, [*PROMPT, THINK], thinking_budget=budget, logit_bias={THOUGHT: 60.0}, max_tokens=5)
    assert budget_of(soon) == 0
    both = one(WORD, [*PROMPT, THINK], thinking_budget=budget, logit_bias=never | {END: 0.0})
    assert budget_of(both) == budget
    assert re.fullmatch("[a-c]{2,4}", TOKENIZER.decode(both.tokens[budget + 1 : -1]))
    never = one(WORD.placed(lead="thinking"), thinking_budget=0, logit_bias={THINK: 60.0})
    assert re.fullmatch("[a-c]{2,4}", text_of(never))


def test_only_what_the_parser_takes_for_thinking_is_counted() -> None:
    guide = Guides(TOKENIZER).guide(0, PROMPT, Sampling(thinking_budget=2))
    assert guide is not None
    for token in (USE, THINK, 50, 51, 52, USED, 53, THINK, 54):  # in a call, the first is out of place
        guide.take(token)
        assert guide.allowed() is None
    guide.take(55)
    assert ids_of(guide.allowed()) == {THOUGHT}
    guide.take(THOUGHT)
    assert ids_of(guide.allowed()) == {*range(TOKENIZER.vocab_size)} - {THINK}


def bits(guides: Guides, grammar: Grammar, said: list[int], size: int) -> set[int]:
    """Ids that may follow `said`."""
    guide = guides.guide(0, PROMPT, Sampling(grammar=grammar))
    assert guide is not None
    for token in said:
        guide.take(token)
    allowed = guide.allowed()
    assert guide.error is None
    return ids_of(allowed, size)


def ids_of(allowed: NDArray[np.uint32] | None, size: int = TOKENIZER.vocab_size) -> set[int]:
    assert allowed is not None
    return set(np.flatnonzero(np.unpackbits(allowed.view(np.uint8), bitorder="little")[:size]).tolist())


def test_no_text_is_a_special_token() -> None:
    """Not even for a grammar that says only what must not be."""
    size = TOKENIZER.vocab_size
    for grammar in (Grammar.lark("start: X\nX: ~/a/"), Grammar.regex("(?s:.*)"), Grammar.json_schema({})):
        for said in ([], TOKENIZER.encode('"')):
            assert bits(Guides(TOKENIZER), grammar, said, size) & TOKENIZER.special_ids <= {END}
    assert END in bits(Guides(TOKENIZER), Grammar.regex("ab*"), TOKENIZER.encode("a"), size)
    assert END not in bits(Guides(TOKENIZER), Grammar.regex("ab*"), [], size)


def test_ids_that_only_the_model_has_never_come() -> None:
    engine = Engine(tiny_model(0, vocab_size=700), TOKENIZER)
    done = engine.generate([PROMPT] * 4, Sampling(max_tokens=40, seed=1, grammar=Grammar.regex("(?s:.{30})")))
    assert {c.stop_reason for c in done} <= {"end", "max_tokens"}
    assert max(max(c.tokens) for c in done) < TOKENIZER.vocab_size


def test_a_trained_tokenizer_may_write_what_it_would_write() -> None:
    """A call as the Renderer writes it is open to the model token by token."""
    text = '{"name":"add_all","input":{"values":[1,22],"note":"the quick brown fox"}} the quick brown fox '
    tokenizer = train_bpe([text * 5, text + "{}"], TokenizerConfig(vocab_size=320))
    schema = {
        "type": "object",
        "properties": {"values": {"type": "array", "items": {"type": "integer"}}, "note": {"type": "string"}},
        "required": ["values"],
    }
    tools = [ToolSpec(name="add", input_schema=schema), ToolSpec(name="add_all", input_schema=schema)]
    prompt = [tokenizer.special["<|assistant|>"]]
    grammar = choosing(Sampling(), tools, "any", prompt, tokenizer).grammar
    assert grammar is not None
    said: list[int] = []
    written = [USE, *tokenizer.encode(text.partition("}} ")[0] + "}}"), USED, END]
    assert len(written) < 50
    for token in written:
        assert token in bits(Guides(tokenizer), grammar, said, tokenizer.vocab_size)
        said.append(token)


FIXED = Grammar.regex("the same words every time, and then [ab]{3}(, and the same end)?")


def asked(engine: Engine, sampling: Sampling, probe: Probe | None = None) -> tuple[Request, int]:
    """One request to its end, and how many steps it took."""
    before = engine.stats.steps
    request = Request(PROMPT, sampling, probe=probe)
    engine.attempt([request])
    return request, engine.stats.steps - before


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"temperature": 0.0},
        {"top_p": 0.9, "alternatives": 2},
        {"repetition_penalty": 1.5, "alternatives": 1},
        {"max_tokens": 17},
        {"stop": ("every time",)},
        {"logit_bias": {TOKENIZER.encode("v")[0]: -math.inf}},
    ],
    ids=lambda more: next(iter(more), "plain"),
)
def test_what_must_come_is_not_asked_for_and_comes_as_if_it_were(more: dict[str, object]) -> None:
    engine = Engine(tiny_model(0, max_position=2048), TOKENIZER)
    sampling = Sampling(**{"max_tokens": 200, "seed": 1, "grammar": FIXED, **more})  # pyright: ignore[reportArgumentType]
    request, steps = asked(engine, sampling)
    drawn, each = asked(engine, sampling, Probe(np.zeros((1, 33), np.float32)))  # which reads every state
    for name in ("tokens", "logprobs", "alternatives", "stop_reason", "stop_sequence"):
        assert getattr(request, name) == getattr(drawn, name)
    assert str(request.error) == str(drawn.error)
    assert (request.error is not None) is ("logit_bias" in more)
    assert len(drawn.readings) == len(drawn.tokens)
    assert each >= len(drawn.tokens) > 3 * steps


def test_a_long_run_of_forced_tokens_lets_others_go_on() -> None:
    engine = Engine(tiny_model(0, max_position=2048), TOKENIZER)
    long = engine.submit(PROMPT, Sampling(max_tokens=1000, grammar=Grammar.regex("a{600}")))
    other = engine.submit(PROMPT, Sampling(max_tokens=4, temperature=0.0, logit_bias={END: -math.inf}))
    engine.step()
    assert 1 < len(long.tokens) < 100
    while other.stop_reason is None:
        engine.step()
    assert long.stop_reason is None
    while engine.step():
        pass
    assert TOKENIZER.decode(long.tokens[:-1]) == "a" * 600


def test_a_guide_says_what_is_forced() -> None:
    guide = Guides(TOKENIZER).guide(0, PROMPT, Sampling(grammar=Grammar.regex("ab[cd]e")))
    assert guide is not None
    for letter in "ab":
        forced = guide.forced()
        assert forced is not None and forced == TOKENIZER.encode(letter)[0]
        guide.take(forced)
    assert guide.forced() is None
    guide.take(TOKENIZER.encode("d")[0])
    guide.take(TOKENIZER.encode("e")[0])
    assert guide.forced() == END
    free = Guides(TOKENIZER).guide(0, PROMPT, Sampling(thinking_budget=3))
    assert free is not None
    assert free.forced() is None


@pytest.mark.parametrize("budget", [None, 100])
@pytest.mark.parametrize("before", [[THINK, USE, THOUGHT], [USE]], ids=["in thinking", "without an end"])
def test_a_stop_is_met_after_a_call_that_nothing_keeps(before: list[int], budget: int | None) -> None:
    """With a budget of thinking, a stray mark kept every later stop from being met."""
    sampling = Sampling(max_tokens=90, stop=("STOP",), thinking_budget=budget)
    request = Request(PROMPT, sampling)
    request.guide = Guides(TOKENIZER).guide(0, PROMPT, sampling)
    for token in [*before, *TOKENIZER.encode("so STOP and on")]:
        if request.add(token, 0.0, TOKENIZER):
            break
    assert request.stop_reason == "stop_sequence"
    assert TOKENIZER.decode(request.tokens).endswith("so STOP")
