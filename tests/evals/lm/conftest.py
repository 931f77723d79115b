"""Fixtures: a checkpoint whose tokenizer merges, as lm-eval meets them, and the same in transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from publius.evals.lm import EngineLM
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.testing import tiny_model
from publius.tokenizer.bpe import TokenizerConfig, train_bpe

CONTEXT = 64
TEXTS = [
    "The river of Elmford is the Esk, and the river of Thorley is the Nidd.",
    "Question: Which river runs by the mill?\nAnswer: The river runs by the mill and the market.",
    "def double(number):\n    return number * 2\n",
] * 4


@pytest.fixture(scope="session")
def merging(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("merging") / "files"
    tokenizer = train_bpe(TEXTS, TokenizerConfig(vocab_size=400, min_frequency=1))
    model = tiny_model(3, vocab_size=tokenizer.vocab_size, max_position=CONTEXT)
    save_checkpoint(folder, model, tokenizer)
    return Checkpoint(folder)


@pytest.fixture(scope="session")
def lm(merging: Checkpoint) -> EngineLM:
    return EngineLM.of(merging)


class Peer:
    """The same folder in transformers, one text at a time and no cleverness: what must come out."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """Of ids that fit the context."""
        ids = torch.tensor([[*context, *continuation]])
        logp = self.model(ids[:, :-1]).logits[0, -len(continuation) :].log_softmax(-1)
        wanted = torch.tensor(continuation)
        return float(logp.gather(1, wanted[:, None]).sum()), bool((logp.argmax(-1) == wanted).all())

    @torch.no_grad()
    def greedy(self, ids: list[int], count: int) -> list[int]:
        """The next `count` ids, or up to the end of the text."""
        found = list(ids)
        for _ in range(count):
            found.append(int(self.model(torch.tensor([found])).logits[0, -1].argmax()))
            if found[-1] == self.tokenizer.eos_token_id:
                break
        return found[len(ids) :]


@pytest.fixture(scope="session")
def peer(merging: Checkpoint) -> Peer:
    return Peer(merging.path)
