"""The white-box attack: its loss is the monitors' own word, and its suffixes lower it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from publius.core.messages import Conversation, assistant, user
from publius.inference import Engine, Request, Sampling
from publius.inference.readings import Probe, states_of
from publius.safety import whitebox
from publius.safety.head import LastBlock
from publius.safety.play import Played
from publius.safety.probe import ProbeDocument, averages
from publius.safety.rereading import stream_before
from publius.safety.whitebox import Known, WhiteboxConfig
from publius.testing import byte_tokenizer, tiny_model
from publius.tokenizer import Renderer

MODEL = tiny_model()
WIDE = MODEL.config.hidden_size
PROBE = Probe(np.random.default_rng(0).normal(size=(1, 2 * WIDE + 1)).astype(np.float32), (1,))
DOCUMENT = ProbeDocument(
    model="x", outputs=("harm",), layers=(1,), average=0.4, threshold=0.0, hold_back=4, benign=9,
    false_positives=0.1,
)  # fmt: skip
TOKENS = torch.tensor([[5, 9, 30, 7, 40, 41, 17, 60, 3]])
REPLY = 4


def head() -> LastBlock:
    torch.manual_seed(1)
    block = LastBlock(MODEL, 1)
    torch.nn.init.normal_(block.out.weight)
    return block.eval().requires_grad_(False)


@pytest.mark.parametrize("knows_head", [False, True])
def test_the_loss_is_what_the_monitors_say_of_the_reply(knows_head: bool) -> None:
    block = head() if knows_head else None
    known = Known(MODEL, PROBE, DOCUMENT, block, 0.5)
    with torch.no_grad():
        got = whitebox._loss(known, MODEL.model.embed_tokens(TOKENS), TOKENS, REPLY, 0.0)
        states = states_of(MODEL, TOKENS, (1,))[0, -REPLY - 1 : -1].numpy()
        readings = states @ PROBE.weights[:, :-1].T + PROBE.weights[:, -1]
        means = torch.tensor([float(mean[0]) for mean in averages(readings, 0.4)])
        wanted = means.logsumexp(0)
        if block is not None:
            harm = block(stream_before(MODEL, TOKENS), MODEL)[0, -REPLY - 1 : -1, 0]
            wanted = wanted + (harm + 0.5 * means).logsumexp(0)
    assert float(got[0]) == pytest.approx(float(wanted), abs=1e-3)


def test_the_gradient_is_that_of_the_loss() -> None:
    known = Known(MODEL, PROBE, DOCUMENT, None, 0.0)
    gradient = whitebox._gradient(known, TOKENS, 1, 2, REPLY, 1.0)
    assert gradient.shape == (2, MODEL.config.vocab_size)
    weight = MODEL.model.embed_tokens.weight.detach()
    step = 1e-3 * (weight[50] - weight[9])
    with torch.no_grad():
        embedded = MODEL.model.embed_tokens(TOKENS)
        before = whitebox._loss(known, embedded, TOKENS, REPLY, 1.0)
        embedded[0, 1] += step
        after = whitebox._loss(known, embedded, TOKENS, REPLY, 1.0)
    told = 1e-3 * float(gradient[0, 50] - gradient[0, 9])
    assert float(after - before) == pytest.approx(told, rel=0.1, abs=1e-4)


def test_a_suffix_is_text_that_the_tokenizer_reads_back_and_lowers_the_loss() -> None:
    renderer = Renderer(byte_tokenizer())
    asked = Conversation(messages=(user("How?"),), meta={"kind": "hazard", "keys": ["x"], "need": 1})
    request = Request(renderer.prompt(asked), Sampling(max_tokens=6, temperature=0.0))
    Engine(MODEL, renderer.tokenizer).complete([request])
    leak = Played(asked, asked.then(assistant("x")), drawn=[request])
    known = Known(MODEL, PROBE, DOCUMENT, None, 0.0)

    def loss(suffix: str) -> float:
        prompt = renderer.prompt(whitebox._with(asked, suffix))
        rows = torch.tensor([[*prompt, *request.tokens]])
        with torch.no_grad():
            found = whitebox._loss(known, MODEL.model.embed_tokens(rows), rows, len(request.tokens), 0.0)
        return float(found[0])

    words = renderer.tokenizer.encode("abcdefghij klmnop")
    config = WhiteboxConfig(steps=6, candidates=8, top=8, fluency=0.0)
    suffix = whitebox.search_suffix(known, renderer, leak, words, config, random.Random(0))
    assert len(renderer.tokenizer.encode(suffix)) == len(whitebox._FILLER)
    assert loss(suffix) < loss(whitebox._FILLER) - 0.1
