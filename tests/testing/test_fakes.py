"""The fakes are what they say: every text encodes, the same seed gives the same model."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.core.messages import ThinkingBlock, ToolUseBlock, check_roles
from publius.inference.sampling import Sampling
from publius.testing import (
    ScriptedEngine,
    byte_tokenizer,
    fake_conversations,
    fake_engine,
    tiny_config,
    tiny_model,
)
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.special import SPECIAL_TOKENS

TOKENIZER = byte_tokenizer()


@settings(max_examples=100)
@given(text=st.text())
def test_one_token_a_byte(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert b"".join(TOKENIZER.id_bytes(i) for i in ids) == text.encode()
    assert len(ids) == len(text.encode())
    assert TOKENIZER.decode(ids) == text
    assert not ids or min(ids) >= len(SPECIAL_TOKENS)


def test_vocabulary() -> None:
    assert TOKENIZER.vocab_size == 269 == tiny_config().vocab_size
    assert [TOKENIZER.special[name] for name in SPECIAL_TOKENS] == list(range(13))
    assert TOKENIZER.added == ()


def test_models_by_seed() -> None:
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        one, same, other = (tiny_model(seed)(tokens) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    assert one.softmax(-1).max() > 0.1  # not flat: choices are distinct
    assert tiny_model(layers=1).config.layers == 1


def test_conversations_are_well_formed_and_varied() -> None:
    made = fake_conversations(60, seed=1)
    assert made == fake_conversations(60, seed=1)
    assert made != fake_conversations(60, seed=2)
    renderer = Renderer(TOKENIZER)
    for conversation in made:
        check_roles(conversation)
        assert sum(renderer.render(conversation).weights) > 0
    blocks = [b for c in made for m in c.messages for b in m.content]
    assert any(isinstance(b, ThinkingBlock) for b in blocks)
    assert any(isinstance(b, ToolUseBlock) for b in blocks)
    assert any(c.system for c in made)


def test_scripted_engine() -> None:
    engine = ScriptedEngine(["hi", [20, 21], "longer"])
    done = engine.generate([[1], [1, 2]], Sampling(max_tokens=10))
    assert done[0].tokens == (*TOKENIZER.encode("hi"), TOKENIZER.end_id)
    assert (done[0].stop_reason, done[1].stop_reason) == ("end", "max_tokens")
    assert done[1].tokens == (20, 21)
    assert list(engine.stream([1], Sampling(max_tokens=2))) == TOKENIZER.encode("lo")
    assert engine.prompts == [[[1], [1, 2]], [[1]]]


def test_fake_engine_generates() -> None:
    assert len(fake_engine().generate([[1, 50]], Sampling(max_tokens=3, temperature=0))[0].tokens) <= 3
