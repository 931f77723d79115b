"""What a grammar promises: every reply matches it, the draw stays the model's, and no other row notices."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from publius.core.errors import UserError
from publius.core.messages import Conversation, ThinkingBlock, ToolSpec, ToolUseBlock, assistant, user
from publius.inference.assistant import Assistant, Event, Reply
from publius.inference.engine import Engine
from publius.inference.grammar import Grammar
from publius.inference.guide import Guides
from publius.inference.request import Completion
from publius.inference.sampling import Sampling
from publius.inference.tool_choice import NamedTool, ToolChoice, choosing
from publius.testing import byte_tokenizer, tiny_model
from publius.tokenizer.bpe import TokenizerConfig, train_bpe
from publius.tokenizer.renderer import Renderer

TOKENIZER = byte_tokenizer()
RENDERER = Renderer(TOKENIZER)
SPECIAL = TOKENIZER.special
END, THINK, THOUGHT = TOKENIZER.end_id, SPECIAL["<|think|>"], SPECIAL["<|/think|>"]
USE, USED = SPECIAL["<|tool_use|>"], SPECIAL["<|/tool_use|>"]
ENGINE = Engine(tiny_model(0, max_position=2048), TOKENIZER)
BOTH = pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
PROMPT = [1, *TOKENIZER.encode("Hello")]


def one(grammar: Grammar | None = None, prompt: list[int] = PROMPT, **sampling: Any) -> Completion:
    return ENGINE.generate(
        [prompt], Sampling(**{"max_tokens": 200, "seed": 1, "grammar": grammar, **sampling})
    )[0]


def text_of(done: Completion) -> str:
    """What was written before the end token."""
    assert done.stop_reason == "end"
    assert done.tokens[-1] == END
    return TOKENIZER.decode(done.tokens[:-1])


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


# ---- its place in the reply ----

WORD = Grammar.regex("[a-c]{2,4}")
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


# ---- tools ----

POINT = {
    "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "properties": {"x": {"$ref": "#/$defs/n"}, "y": {"$ref": "#/$defs/n"}},
    "required": ["x"],
    "additionalProperties": False,
}
NAME = {"type": "object", "properties": {"who": {"enum": ["é", "b"]}}, "additionalProperties": False}
TOOLS = (
    ToolSpec(name="point", input_schema=POINT),
    ToolSpec(name="pointer", input_schema=NAME),
    ToolSpec(name='a "b"\\ é', input_schema=NAME),
)
SCHEMAS = {tool.name: tool.input_schema for tool in TOOLS}
ASK = Conversation(messages=(user("Hi"),), tools=TOOLS)


def helper(**sampling: Any) -> Assistant:
    return Assistant(ENGINE, RENDERER, Sampling(**{"max_tokens": 150, **sampling}))


def streamed(assistant: Assistant, ask: Conversation, **options: Any) -> tuple[list[Event], Reply]:
    events: list[Event] = []
    stream = assistant.stream(ask, **options)
    while True:
        try:
            events.append(next(stream))
        except StopIteration as stop:
            return events, stop.value


def called(reply: Reply) -> list[str]:
    """Names of the tools that were called, each with an input that its schema takes."""
    assert reply.problems == ()
    calls = [block for block in reply.message.content if isinstance(block, ToolUseBlock)]
    for call in calls:
        jsonschema.validate(call.input, SCHEMAS[call.name])
    return [call.name for call in calls]


@pytest.mark.parametrize("choice", ["any", *map(NamedTool, SCHEMAS)])
@pytest.mark.parametrize("thinking", [None, True, False])
def test_a_forced_call_is_whole_and_valid(choice: ToolChoice, thinking: bool | None) -> None:
    asks = [ASK.model_copy(update={"messages": (user("Hi" * (i + 1)),)}) for i in range(6)]
    bias = {THINK: 14.0, THOUGHT: 12.0}
    options: dict[str, Any] = {"thinking": thinking, "tool_choice": choice, "thinking_budget": 20}
    for heat in (0.0, 1.0):
        replies = helper(temperature=heat, seed=4, logit_bias=bias).replies(asks, **options)
        assert all(reply.stop_reason == "tool_use" for reply in replies)
        names = [name for reply in replies for name in called(reply)]
        assert len(names) == len(asks)
        assert set(names) <= ({choice.name} if isinstance(choice, NamedTool) else set(SCHEMAS))
        before = [block for reply in replies for block in reply.message.content[:-1]]
        assert all(isinstance(block, ThinkingBlock) for block in before)
        assert len(before) == 6 if thinking else thinking is None or not before


def test_a_forced_call_streams_as_it_is_replied() -> None:
    options: dict[str, Any] = {"tool_choice": "any", "thinking": True, "thinking_budget": 5}
    for seed in range(4):
        events, reply = streamed(helper(seed=seed), ASK, **options)
        assert reply == helper(seed=seed).reply(ASK, **options)
        call = reply.message.content[-1]
        assert isinstance(call, ToolUseBlock)
        assert events[-1].kind == "tool_use"
        assert json.loads(events[-1].text) == {"name": call.name, "input": call.input}
        assert "".join(e.text for e in events[:-1]) == "".join(
            block.thinking for block in reply.message.content if isinstance(block, ThinkingBlock)
        )


def test_rows_of_one_call_have_tools_and_numbers_of_their_own() -> None:
    other = Conversation(messages=ASK.messages, tools=(ToolSpec(name="other"),))
    asks = [ASK, ASK, ASK, ASK, other.model_copy(update={"tools": TOOLS[1:2]})]
    options: dict[str, Any] = {"thinking": False, "tool_choice": "any"}
    replies = helper(seed=2, temperature=1.5).replies(asks, **options)
    assert called(replies[4]) == ["pointer"]
    assert len({str(called(r)) + str(r.message.content[-1]) for r in replies[:4]}) > 1
    assert replies[0] == helper(seed=2, temperature=1.5).reply(ASK, **options)


def test_a_call_after_words_that_were_given() -> None:
    begun = ASK.then(assistant("I will look."))
    reply = helper(seed=1, logit_bias={THINK: 60.0}).reply(begun, tool_choice="any")
    assert len(called(reply)) == len(reply.message.content) == 1


def test_auto_leaves_the_text_alone_and_keeps_the_calls() -> None:
    for seed in range(4):
        silent = helper(seed=seed, logit_bias={USE: -math.inf})
        assert silent.reply(ASK, tool_choice="auto") == silent.reply(ASK)
    never = dict.fromkeys(TOKENIZER.special_ids - {USE, END}, -99.0)
    often = helper(seed=6, logit_bias={USE: 7.0, END: 5.0, **never})
    replies = often.replies([ASK] * 16, tool_choice="auto", thinking=False)
    whole = [reply for reply in replies if reply.stop_reason == "tool_use"]
    assert sum(len(called(reply)) for reply in whole) > 5
    assert any(block.type == "text" for reply in whole for block in reply.message.content)


def test_none_calls_nothing() -> None:
    often = helper(seed=6, logit_bias={USE: 60.0})
    assert all(reply.problems for reply in often.replies([ASK] * 4))
    for choice, ask in (("none", ASK), ("auto", Conversation(messages=ASK.messages))):
        for reply in often.replies([ask] * 4, tool_choice=choice):  # pyright: ignore[reportArgumentType]
            assert not any("call" in problem for problem in reply.problems)
    kept = helper(seed=6, grammar=WORD).reply(ASK, tool_choice="none")
    assert re.fullmatch("[a-c]{2,4}", kept.message.content[0].text)  # pyright: ignore[reportAttributeAccessIssue]


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
        (lambda: helper().reply(ASK, tool_choice=NamedTool("no")), "tool_choice"),
        (lambda: helper().reply(Conversation(messages=ASK.messages), tool_choice="any"), "tool_choice"),
        (lambda: helper(grammar=WORD).reply(ASK, tool_choice="auto"), "Sampling.grammar"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_said(made: Any, where: str) -> None:
    with pytest.raises(UserError) as error:
        made()
    assert where in error.value.where


def test_a_tool_whose_input_cannot_be_kept_is_named() -> None:
    for schema in ({"type": "array"}, {"multipleOf": 99991}):
        ask = ASK.model_copy(update={"tools": (TOOLS[0], ToolSpec(name="t", input_schema=schema))})
        with pytest.raises(UserError) as error:
            helper().stream(ask, tool_choice="auto")
        assert error.value.where.startswith("tools[1] (t): input_schema")


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
