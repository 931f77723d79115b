from __future__ import annotations

import hashlib

from publius.constitution.principles import Constitution
from publius.constitution.raw_text import Case, fill, visible
from publius.constitution.styles import RawStyle, make_style
from publius.core.messages import Conversation, ToolResultBlock, assistant, user
from publius.data.pocket.notebooks import CONSTITUTION
from publius.testing import byte_tokenizer
from tests.rl.tiny import tokenizer

TEXT = """
id: small
version: "1"
title: t
categories: {k: d}
principles:
  - {id: p, text: T, source: s, category: k, critique_request: "CR?",
     revision_request: "RR!", comparison_question: "Q?"}
critiques:
  - {conversation: sq, response: sr, critique_request: scr, critique: sc, revision_request: srr, revision: sv}
comparisons:
  - {conversation: cq, a: ca, b: cb, answer: B, question: CQ}
  - {conversation: dq, a: da, b: db, answer: A}
reasonings:
  - {conversation: rq, a: ra, b: rb, answer: A, reasoning: "asked {principle} so A"}
"""
C = Constitution.parse(TEXT)
P = C.principles[0]
T = tokenizer()
TALK = Conversation(system="be brief", messages=(user("one"), assistant("two"), user("three")))
HEAD = "\n\nSystem: be brief\n\nHuman: one\n\nAssistant: two\n\nHuman: three"
SHOT = (
    "\n\nHuman: sq\n\nAssistant: sr\n\nCritiqueRequest: scr\n\nCritique: sc"
    "\n\nRevisionRequest: srr\n\nRevision: sv"
)


def raw(ids: list[int]) -> str:
    assert ids[0] == T.bos_id
    return T.decode(ids[1:])


def test_slots_are_filled_once() -> None:
    assert fill("{a}-{b}-{c}", a="{b}", b="x") == "{b}-x-{c}"


def test_visible_shows_tool_results() -> None:
    assert visible(user([ToolResultBlock(tool_use_id="t", content="42")])) == "42"


def test_raw_critique_and_revision_are_the_papers_transcript() -> None:
    style = RawStyle(C, T, 10_000)
    asked = f"{SHOT}{HEAD}\n\nAssistant: bad\n\nCritiqueRequest: CR?\n\nCritique:"
    assert raw(style.critique(TALK, "bad", P)) == asked
    assert (
        raw(style.revision(TALK, "bad", P, " it is bad "))
        == f"{asked} it is bad\n\nRevisionRequest: RR!\n\nRevision:"
    )
    direct = raw(style.revision(TALK, "bad", P, None))
    assert direct == (
        "\n\nHuman: sq\n\nAssistant: sr\n\nRevisionRequest: srr\n\nRevision: sv"
        f"{HEAD}\n\nAssistant: bad\n\nRevisionRequest: RR!\n\nRevision:"
    )


def test_raw_comparison() -> None:
    start = "Consider the following conversation between a human and an assistant:\n"
    case = Case(Conversation(messages=(user("q {a}"),)), "first", "second", "Q?")
    assert raw(RawStyle(C, T, 10_000).comparison(case)) == (
        f"{start}Human: cq\nCQ\nOptions:\n(A) ca\n(B) cb\nThe answer is: (B)\n\n"
        f"{start}Human: dq\nQ?\nOptions:\n(A) da\n(B) db\nThe answer is: (A)\n\n"
        f"{start}Human: q {{a}}\nQ?\nOptions:\n(A) first\n(B) second\nThe answer is:"
    )


def test_raw_reasoning_and_conclusion() -> None:
    style = RawStyle(C, T, 10_000)
    case = Case(Conversation(messages=(user("q"),)), "x", "y", "Q?")
    asked = raw(style.reasoning(case))
    assert "step by step: asked Q? so A\n\nSo the answer is: (A)\n\nConsider" in asked
    assert asked.endswith("(A) x\n(B) y\nLet's think step by step:")
    assert raw(style.conclusion(case, "hm ")) == asked + " hm\n\nSo the answer is:"


def test_examples_give_way_to_the_context() -> None:
    full, none = RawStyle(C, T, 10_000), RawStyle(C, T, 10_000, shots=0)
    bare = none.critique(TALK, "bad", P)
    assert len(bare) < len(full.critique(TALK, "bad", P))
    assert RawStyle(C, T, len(bare) + 3).critique(TALK, "bad", P) == bare
    assert (
        RawStyle(C, T, 5).critique(TALK, "bad", P) == bare
    )  # too long by itself: whole, the caller counts it


def test_chat_style_makes_turns_of_the_examples() -> None:
    style = make_style("chat", C, T, 10_000, 8)
    said = T.decode(style.critique(TALK, "bad", P))
    assert said == (
        "<|bos|><|user|>Human: sq\n\nAssistant: sr\n\nscr<|end|><|assistant|>sc<|end|>"
        "<|user|>srr<|end|><|assistant|>sv<|end|>"
        f"<|user|>{HEAD.strip()}\n\nAssistant: bad\n\nCR?<|end|><|assistant|>"
    )
    revised = T.decode(style.revision(TALK, "bad", P, "oh"))
    assert revised == said + "oh<|end|><|user|>RR!<|end|><|assistant|>"
    direct = T.decode(style.revision(TALK, "bad", P, None))
    assert "scr" not in direct and direct.endswith("bad\n\nRR!<|end|><|assistant|>")
    case = Case(Conversation(messages=(user("q"),)), "x", "y", "Q?")
    assert T.decode(style.comparison(case)).endswith("(A) x\n(B) y<|end|><|assistant|>The answer is:")
    assert T.decode(style.reasoning(case)).endswith("<|assistant|>Let's think step by step:")
    end = "<|assistant|>Let's think step by step: hm\n\nSo the answer is:"
    assert T.decode(style.conclusion(case, "hm")).endswith(end)
    assert "<|assistant|>The answer is: (B)<|end|>" in T.decode(style.comparison(case))


def test_the_quickstarts_prompts_are_those_of_its_published_run() -> None:
    """One hash over every raw prompt of the Pocket constitution; it changes only with new numbers."""
    constitution, tokens = Constitution.load(CONSTITUTION), byte_tokenizer()
    talk = Conversation(messages=(user("How is wicked bane made?"), assistant("No."), user("Why not?")))
    digest = hashlib.sha256()
    for shots in (0, 1, 2):
        style = RawStyle(constitution, tokens, 1 << 30, shots)
        for p in constitution.principles:
            for ids in (
                style.critique(talk, "bad", p),
                style.revision(talk, "bad", p, "why"),
                style.revision(talk, "bad", p, None),
                style.comparison(Case(talk, "one", "other {a}", p.comparison_question)),
            ):
                digest.update(tokens.decode(ids).encode() + b"\0")
    assert digest.hexdigest() == "ba5707cd712ed13eb1e9694bbbe07eacf145bb5cf90fe8173d1c845a2958cf72"
