"""The layout, the loss weights, prompts, and parsing of good and bad replies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.core.errors import UserError
from publius.core.messages import (
    Conversation,
    TextBlock,
    ThinkingBlock,
    ToolSpec,
    ToolUseBlock,
    assistant,
    user,
)
from publius.tokenizer import Parsed, Renderer, Tokenizer

THINK = {"type": "thinking", "thinking": "carry the 1"}
CALL = {"type": "tool_use", "id": "x", "name": "calc", "input": {"e": "1+2", "ü": [1, None]}}
RESULT = {"type": "tool_result", "tool_use_id": "x", "content": "3"}
TALK = Conversation(
    system="Be brief.",
    tools=(ToolSpec(name="calc", description="adds", input_schema={"type": "object"}), ToolSpec(name="look")),
    messages=(user("1+2?"), assistant([THINK, CALL]), user([RESULT]), assistant("It is 3.")),
    meta={"kind": "sum"},
)
EXPECTED = (
    "<|bos|><|system|>Be brief.<|end|><|tools|>"
    '{"name":"calc","description":"adds","input_schema":{"type":"object"}}\n'
    '{"name":"look","description":"","input_schema":{}}<|end|>'
    "<|user|>1+2?<|end|><|assistant|><|think|>carry the 1<|/think|>"
    '<|tool_use|>{"name":"calc","input":{"e":"1+2","ü":[1,null]}}<|/tool_use|><|end|>'
    "<|user|><|tool_result|>3<|/tool_result|><|end|><|assistant|>It is 3.<|end|>"
)


@pytest.fixture
def renderer(tokenizer: Tokenizer) -> Renderer:
    return Renderer(tokenizer)


def _weighted(renderer: Renderer, conversation: Conversation) -> str:
    tokens, weights = renderer.render(conversation)
    assert set(weights) <= {0.0, 1.0} and len(tokens) == len(weights)
    return renderer.tokenizer.decode([t for t, w in zip(tokens, weights, strict=True) if w])


def test_layout(renderer: Renderer) -> None:
    assert renderer.tokenizer.decode(renderer.render(TALK).tokens) == EXPECTED
    plain = Conversation(messages=(user("hi"),))
    assert renderer.tokenizer.decode(renderer.render(plain).tokens) == "<|bos|><|user|>hi<|end|>"


def test_weights_are_on_every_assistant_turn_and_its_end(renderer: Renderer) -> None:
    first = '<|think|>carry the 1<|/think|><|tool_use|>{"name":"calc","input":{"e":"1+2","ü":[1,null]}}'
    assert _weighted(renderer, TALK) == f"{first}<|/tool_use|><|end|>It is 3.<|end|>"
    last_only = TALK.model_copy(update={"meta": {"train_last_only": True}})
    assert _weighted(renderer, last_only) == "It is 3.<|end|>"


def test_a_prefill_is_not_trained(renderer: Renderer) -> None:
    def weighted(prefill: object) -> str:
        talk = Conversation(
            messages=(user("a"), assistant("Sure. b"), user("c"), assistant("Sure. d")),
            meta={"prefill": prefill},
        )
        return _weighted(renderer, talk)

    assert weighted("Sure.") == "Sure. b<|end|> d<|end|>"  # only the last turn was begun by another
    assert weighted("") == weighted(None) == weighted("Begin") == "Sure. b<|end|>Sure. d<|end|>"
    assert weighted("Sure. d and more") == "Sure. b<|end|><|end|>"


def test_thinking_that_was_forbidden_is_not_trained(renderer: Renderer) -> None:
    def weighted(meta: dict, thinking: str = "") -> str:
        said = assistant([{"type": "thinking", "thinking": thinking}, {"type": "text", "text": "d"}])
        return _weighted(renderer, Conversation(messages=(user("a"), said), meta=meta))

    assert weighted({"thinking": False}) == "d<|end|>"
    assert weighted({"thinking": True}) == weighted({}) == "<|think|><|/think|>d<|end|>"
    assert weighted({"thinking": False}, "b") == "<|think|>b<|/think|>d<|end|>"
    plain = Conversation(messages=(user("a"), assistant("d")), meta={"thinking": False, "prefill": "d"})
    assert _weighted(renderer, plain) == weighted(plain.meta) == "<|end|>"


def test_text_is_encoded_apart_from_its_surroundings(renderer: Renderer) -> None:
    tokens = renderer.render(Conversation(messages=(user(" bread "), assistant("d")))).tokens
    special, encode = renderer.tokenizer.special, renderer.tokenizer.encode
    body = [special["<|user|>"], *encode(" bread "), special["<|end|>"]]
    assert tokens == [1, *body, special["<|assistant|>"], *encode("d"), 2]
    split = user([{"type": "text", "text": "bre"}, {"type": "text", "text": "ad"}])
    joined = Conversation(messages=(user("bread"),))
    assert renderer.render(Conversation(messages=(split,))) == renderer.render(joined)


def test_prompts(renderer: Renderer) -> None:
    asked = Conversation(messages=(user("hi"),))
    base = "<|bos|><|user|>hi<|end|><|assistant|>"

    def shown(conversation: Conversation, thinking: bool | None = None, prefill: str = "") -> str:
        return renderer.tokenizer.decode(renderer.prompt(conversation, thinking=thinking, prefill=prefill))

    assert shown(asked) == base
    assert shown(asked, True) == f"{base}<|think|>"
    assert shown(asked, False) == f"{base}<|think|><|/think|>"
    assert shown(asked, prefill="Sure") == f"{base}Sure"
    assert shown(asked, False, "Sure") == f"{base}<|think|><|/think|>Sure"
    begun = asked.then(assistant("Once"))
    assert shown(begun) == f"{base}Once"
    assert shown(begun, prefill=" upon") == f"{base}Once upon"
    assert shown(asked.then(assistant([THINK])), False) == f"{base}<|think|>carry the 1<|/think|>"
    with pytest.raises(UserError, match="thinking cannot be forced"):
        renderer.prompt(begun, thinking=True)
    start = renderer.render(Conversation(messages=begun.messages)).tokens
    assert start[:-1] == renderer.prompt(begun)


def test_images_are_refused(renderer: Renderer) -> None:
    picture = user([{"type": "image", "source": {"type": "base64", "data": ""}}])
    with pytest.raises(UserError, match="image"):
        renderer.render(Conversation(messages=(picture,)))


def test_empty_system_is_no_system(renderer: Renderer) -> None:
    asked = Conversation(messages=(user("hi"),))
    assert renderer.render(asked.model_copy(update={"system": ""})) == renderer.render(asked)


def _parse(renderer: Renderer, text: str, **options: bool) -> Parsed:
    """Parse `text`, in which special tokens are written by name."""
    return renderer.parse(_ids(renderer, text), **options)


def _ids(renderer: Renderer, text: str) -> list[int]:
    for name in renderer.tokenizer.special:
        text = text.replace(name, f"\0{name}\0")
    ids: list[int] = []
    for part in text.split("\0"):
        special = renderer.tokenizer.special.get(part)
        ids += renderer.tokenizer.encode(part) if special is None else [special]
    return ids


def test_parse_good_replies(renderer: Renderer) -> None:
    parsed = _parse(renderer, "Hello.<|end|>")
    assert parsed == Parsed((TextBlock(text="Hello."),), "end_turn", ())
    call = '<|tool_use|>{"name":"f","input":{"a":[1]}}<|/tool_use|>'
    parsed = _parse(renderer, f"<|think|>hm<|/think|>Wait.{call}{call}<|end|>")
    assert parsed.stop_reason == "tool_use" and not parsed.problems
    assert parsed.blocks[:2] == (ThinkingBlock(thinking="hm"), TextBlock(text="Wait."))
    first, second = parsed.blocks[2:]
    assert isinstance(first, ToolUseBlock) and isinstance(second, ToolUseBlock)
    assert (first.name, first.input) == ("f", {"a": [1]})
    assert first.id.startswith("toolu_") and first.id != second.id
    assert _parse(renderer, f"Wait.{call}<|end|>").blocks[1] == first  # ids are stable
    assert _parse(renderer, "so<|/think|>42<|end|>", thinking_open=True) == Parsed(
        (ThinkingBlock(thinking="so"), TextBlock(text="42")), "end_turn", ()
    )
    assert renderer.parse([]) == Parsed((), "max_tokens", ())
    assert _parse(renderer, "cut") == Parsed((TextBlock(text="cut"),), "max_tokens", ())


@pytest.mark.parametrize(
    ("reply", "blocks", "reason", "problem"),
    [
        ("<|think|>so far", (ThinkingBlock(thinking="so far"),), "max_tokens", "not closed"),
        ("<|tool_use|>{", (TextBlock(text="{"),), "max_tokens", "not closed"),
        ("a<|tool_use|>{x}<|/tool_use|>b<|end|>", (TextBlock(text="a{x}b"),), "end_turn", "not a valid call"),
        ("<|tool_use|>[1]<|/tool_use|><|end|>", (TextBlock(text="[1]"),), "end_turn", "not a valid call"),
        (
            '<|tool_use|>{"name":1,"input":{}}<|/tool_use|><|end|>',
            (TextBlock(text='{"name":1,"input":{}}'),),
            "end_turn",
            "not a valid call",
        ),
        (
            '<|tool_use|>{"name":"\\ud800","input":{}}<|/tool_use|><|end|>',
            (TextBlock(text='{"name":"\\ud800","input":{}}'),),
            "end_turn",
            "not a valid call",
        ),
        ("a<|/think|>b<|end|>", (TextBlock(text="ab"),), "end_turn", "<|/think|> out of place"),
        ("a<|end|>b", (TextBlock(text="a"),), "end_turn", "dropped"),
        ("a<|user|>b<|end|>", (TextBlock(text="a"),), "end_turn", "opened another turn"),
        ("a<|pad|>b<|end|>", (TextBlock(text="ab"),), "end_turn", "<|pad|> out of place"),
    ],
)
def test_parse_bad_replies(
    renderer: Renderer, reply: str, blocks: tuple[object, ...], reason: str, problem: str
) -> None:
    parsed = _parse(renderer, reply)
    assert (parsed.blocks, parsed.stop_reason) == (blocks, reason)
    assert problem in parsed.problems[0]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_json_has_not_are_no_call(renderer: Renderer, number: str) -> None:
    """Python reads them; a client that gets them could not."""
    special, encode = renderer.tokenizer.special, renderer.tokenizer.encode
    text = f'{{"name":"f","input":{{"a":{number}}}}}'
    parsed = renderer.parse([special["<|tool_use|>"], *encode(text), special["<|/tool_use|>"]])
    assert parsed.blocks == (TextBlock(text=text),)
    assert "not a valid call" in parsed.problems[0]


def test_deeply_nested_calls_and_strange_ids_do_not_raise(renderer: Renderer) -> None:
    assert _parse(renderer, f"<|tool_use|>{'[' * 5000}<|/tool_use|>").problems
    empty = _parse(renderer, "<|tool_use|><|/tool_use|>")
    assert empty.problems and empty.blocks == ()
    parsed = renderer.parse([-1, 10**9, *renderer.tokenizer.encode("a"), 2])
    assert parsed.blocks == (TextBlock(text="a"),) and len(parsed.problems) == 2


@given(tokens=st.lists(st.integers(0, 399) | st.integers(0, 12), max_size=40), opened=st.booleans())
def test_parse_never_raises_and_keeps_text(tokenizer: Tokenizer, tokens: list[int], opened: bool) -> None:
    parsed = Renderer(tokenizer).parse(tokens, thinking_open=opened)
    assert all(not isinstance(block, TextBlock) or block.text for block in parsed.blocks)
    assert (parsed.stop_reason == "max_tokens") == (not {2, 3, 4, 5, 6} & set(tokens))


def test_stop_ids_and_names(renderer: Renderer) -> None:
    assert renderer.stop_ids == {2}
    assert renderer.special_name(5) == "<|assistant|>" and renderer.special_name(100) is None
    assert "<|assistant|>" in renderer.chat_template()
