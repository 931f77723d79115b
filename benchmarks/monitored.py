"""A served model with monitors over it, all of random weights: what `monitor_cost.py` measures.

*Serving* runs everything between a conversation and its events (`Server.exchange`: prompt, engine on its
thread, event loop, hold-back), and nothing of HTTP, so that what monitors add is held against less than a
client waits for. Ways to serve the same weights take turns, in another order every round:

    none    no monitors
    reads   the engine reads the probes, nobody looks
    each    both layers look at every token as it is drawn, the words included; nothing is flagged
    looks   they look as a server has them look: at the tokens that have gathered (`Monitors.gathers`)
    flags   so that a share of the replies is flagged and read by the second stage, which stops none

The replies are the same in all: drawn at temperature 1 with the same seeds, from a vocabulary of word pieces.
"""

from __future__ import annotations

import asyncio
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engines import SHAPES
from numpy.typing import NDArray

from publius.core.config import Config
from publius.core.messages import Conversation, user
from publius.inference import Engine, Request, Sampling
from publius.inference.readings import Probe
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.model.transformer import Transformer
from publius.safety.cascade import CascadeMonitor
from publius.safety.head import HeadDocument, HeadStage, LastBlock
from publius.safety.keywords import KeywordMonitor
from publius.safety.monitor import ALLOW, Monitors, Verdict
from publius.safety.probe import ProbeDocument, ProbeMonitor, averages
from publius.safety.words import words_list
from publius.serve.config import ServeConfig
from publius.serve.exchange import Ask, Ended
from publius.serve.guard import Caller
from publius.serve.hub import Target
from publius.serve.prompt import prompt_ids, sampling_of
from publius.serve.run import SWITCH, build, run_loop
from publius.serve.server import Server
from publius.serve.store import SCOPES
from publius.tokenizer.bpe import TokenizerConfig, train_bpe

__all__ = ["ARMS", "SAID", "Serving", "Work", "layers", "probe_of", "time_serving"]

ARMS = ("none", "reads", "each", "looks", "flags")
WORDS = ("venomq", "baneq", "tollsealq", "rumourq", "privateq", "poisonq", "forgedq", "cruelq")
"""Read to their last letter, which no page says: else they would flag."""
SAID = "The home of the goat is a shed, and for a basket one has to cut the reed and boil the bark. "
AVERAGE = 0.3
"""Weight of the newest reading."""
_KNOWN = 128
"""Replies whose averages say what a share of them passes."""
SURE = 20.0
"""How much more likely word pieces are than bytes that are no letters, as a factor on the logits."""
ANYONE = Caller("", "benchmark", frozenset(SCOPES), limited=False)


class Work(Config):
    """Rows that decode, and what is read of them."""

    size: str = "10M"
    dtype: str = "float32"
    rows: int = 8
    prompt: int = 64
    new: int = 64
    outputs: int = 1
    layers: tuple[int, ...] = ()
    runs: int = 30


class Serving(Config):
    """Replies written at once, round for round."""

    size: str = "10M"
    rows: int = 8
    new: int = 64
    """Most tokens of a reply."""
    rounds: int = 30
    flagged: float = 0.1
    """Of the replies, how many `flags` flags."""


def probe_of(work: Work) -> Probe:
    """Random weights: what they say does not matter."""
    wide = (len(work.layers) + 1) * SHAPES[work.size].hidden_size + 1
    return Probe(np.random.default_rng(0).normal(size=(work.outputs, wide)).astype(np.float32), work.layers)


def layers(
    model: Transformer, probe: Probe, *, flag: float = math.inf
) -> tuple[ProbeMonitor, CascadeMonitor]:
    """Both layers as a policy has them, over random weights; nothing is blocked. The words are always looked
    for where nothing flags (`worded` is below every average), and with `flag` as far as they could matter."""
    document = ProbeDocument(
        model="", outputs=("harm",), layers=probe.layers, average=AVERAGE, threshold=math.inf, hold_back=8,
        benign=0, false_positives=1.0,
    )  # fmt: skip
    known = HeadDocument(
        model="", outputs=("harm",), flag=flag, mix=0.5, threshold=math.inf, hold_back=16, benign=0,
        false_positives=1.0, flagged=1.0,
    )  # fmt: skip
    stage = HeadStage(known, LastBlock(model, 1).state_dict())
    stage.bind(model)
    watched = KeywordMonitor(words_list(WORDS))
    first = ProbeMonitor(probe, document, threshold=flag, hold_back=16)
    return ProbeMonitor(probe, document), CascadeMonitor(first, stage, words=watched)


class Reads:
    """Has the engine read probes, and looks at nothing."""

    name = "reads"

    def __init__(self, probe: Probe | None) -> None:
        self.probe = probe

    def watch(self, conversation: Conversation) -> Reads:
        """Itself: there is nothing to remember."""
        return self

    def prompt(self) -> Verdict:
        """Allowed."""
        return ALLOW

    def reply(self, text: str, scores: NDArray[np.float32], *, done: bool) -> tuple[Verdict, int]:
        """All may leave."""
        return ALLOW, len(text)


def fresh(work: Serving, folder: Path) -> Path:
    """A checkpoint of random weights that says word pieces of this project's own pages."""
    pages = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
    shape = SHAPES[work.size]
    tokenizer = train_bpe(
        [page.read_text("utf-8") for page in pages], TokenizerConfig(vocab_size=shape.vocab_size)
    )
    model = Transformer(shape.model_copy(update={"tie_embeddings": False}), seed=0).eval()
    assert model.lm_head is not None  # since it is not tied
    plain = [
        tokenizer.id_bytes(id).isascii() and len(tokenizer.id_bytes(id)) > 1
        for id in range(tokenizer.vocab_size)
    ]
    with torch.no_grad():
        model.lm_head.weight *= SURE
        model.lm_head.weight[[id for id in range(shape.vocab_size) if id >= len(plain) or not plain[id]]] *= (
            0.01
        )
    save_checkpoint(folder, model, tokenizer)
    return folder


def asked(arm: str, work: Serving, number: int, row: int) -> Ask:
    """A question and how it is answered: the same in every arm."""
    told = Conversation(messages=(user(f"{number}, {row}: {SAID}{SAID}What else?"),))
    sampling = Sampling(temperature=1.0, seed=1000 * number + row)
    return Ask(model=arm, conversation=told, max_tokens=work.new, sampling=sampling)


def flag_of(server: Server, work: Serving, probe: Probe) -> float:
    """The average that a share of the replies of the first rounds passes."""
    served = server.hub.get("none")
    requests: list[Request] = []
    for number in range(max(1, _KNOWN // work.rows)):
        for row in range(work.rows):
            ask = asked("none", work, number, row)
            ids = prompt_ids(served, ask)
            requests.append(Request(ids, sampling_of(served, ask, ids), probe=probe))
    Engine(Checkpoint(served.path).load(), served.tokenizer, max_batch=work.rows).complete(requests)
    highest = [max(float(mean[0]) for mean in averages(one.readings, AVERAGE)) for one in requests]
    return float(np.quantile(highest, 1 - work.flagged))


async def spent(server: Server, arm: str, work: Serving, number: int) -> float:
    """Processor seconds of this process a token, of as many replies at once as there are rows."""

    async def one(row: int) -> int:
        async for event in server.exchange(asked(arm, work, number, row), ANYONE, "r"):
            if isinstance(event, Ended):
                if event.refusal is not None:
                    raise AssertionError("what should only be looked at was stopped")
                return event.usage.output
        raise AssertionError("a reply without an end")

    begun = time.process_time()
    drawn = await asyncio.gather(*(one(row) for row in range(work.rows)))
    return (time.process_time() - begun) / sum(drawn)


async def _in_turn(server: Server, work: Serving, found: list[dict[str, float]]) -> None:
    for number in range(work.rounds + 1):
        at = number % len(ARMS)
        found.append({arm: await spent(server, arm, work, number) for arm in (*ARMS[at:], *ARMS[:at])})
    del found[0]  # the first is warm-up


def time_serving(work: Serving) -> dict[str, Any]:
    """In a child: seconds a token of every arm, of every round."""
    sys.setswitchinterval(SWITCH)
    probe = probe_of(Work(size=work.size))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = fresh(work, folder / "model")
        model, watching = Checkpoint(path).load(), {"none": Monitors()}
        targets = [Target(arm, str(path)) for arm in ARMS]
        config = ServeConfig(unreleased=True, store=f"sqlite:///{folder / 'serve.db'}", rows=work.rows)
        plain = build(config, targets[:1], home=folder)
        flag = flag_of(plain, work, probe)
        plain.hub.close()
        plain.store.close()
        watching |= {
            "looks": Monitors(layers(model, probe)),
            "flags": Monitors(layers(model, probe, flag=flag)),
        }
        watching["each"] = Monitors(watching["looks"].monitors)
        watching["each"].gathers = 1
        watching["reads"] = Monitors([Reads(watching["looks"].probe)])
        server = build(config, targets, home=folder, monitors=lambda id, _: watching[id])
        rounds: list[dict[str, float]] = []
        try:
            run_loop(_in_turn(server, work, rounds))
        finally:
            server.hub.close()
            server.store.close()
    return {"rounds": rounds}
