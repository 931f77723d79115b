"""lm-eval, in an environment of its own, against a real server: it scores what the engine itself scores."""

from __future__ import annotations

import json

import pytest

from publius.inference import Engine, Sampling
from publius.model.checkpoint import Checkpoint
from tests.clients.conftest import checks, report

PAIRS = [["The mill", " grinds grain"], ["The mill", " owl"], ["Who?", " Mara, naïve"]]


@pytest.fixture(scope="session")
def facts(server, tmp_path_factory):
    """What the engine says of some continuations, and whether they are what it would say itself."""
    checkpoint = Checkpoint(server.log.parents[1] / "tiny")
    tokenizer = checkpoint.tokenizer()
    engine = Engine(checkpoint.load(), tokenizer)
    pairs = list(PAIRS)
    own = tokenizer.decode(
        engine.generate([tokenizer.encode("The mill")], Sampling(max_tokens=6, temperature=0.0))[0].tokens
    )
    if tokenizer.encode(own) and own.isprintable() and "<|" not in own:
        pairs.append(["The mill", own])
    prompts, texts = ([tokenizer.encode(part) for part in column] for column in zip(*pairs, strict=True))
    scores = [sum(row) for row in engine.score(prompts, texts)]
    said = [
        engine.generate([prompt], Sampling(max_tokens=len(text), temperature=0.0))[0].tokens
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    greedy = [list(one) == list(text) for one, text in zip(said, texts, strict=True)]
    folder = tmp_path_factory.mktemp("facts")
    facts = {"pairs": pairs, "scores": scores, "greedy": greedy}
    (folder / "scores.json").write_text(json.dumps(facts))
    return str(folder)


@pytest.mark.parametrize(
    ("program", "name"), checks("lm_eval_checks.py"), ids=lambda w: w.removeprefix("check_")
)
def test_lm_eval(run_program, facts, program, name):
    error = run_program("lm-eval", program, facts)[name]
    report(error)
