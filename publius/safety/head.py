"""The last-block head: the served model with its last block trained again to tell harm, as a second stage.

All but the last block is the served model's own, on its own weights. The block that follows began as a copy
of the served one and sees the whole exchange, prompt and reply, by its attention: what a linear reading of
one state cannot. Published: retraining one final layer matches a classifier of a quarter of the model's size.

It costs one block over an exchange where the engine has kept what that gets, and else one pass; in pieces,
for keys and values of what it has read are kept (`rereading`). It is asked about flagged traffic only
(`cascade`).

Shape letters: B rows, T tokens, D hidden size, K outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from publius.core.errors import UserError
from publius.model.attention import KVCache, make_biases
from publius.model.transformer import Block, Transformer
from publius.pipeline import Artifact
from publius.safety.keywords import KeywordList
from publius.safety.rereading import HeadReading, NativeHead, TrunkReading

__all__ = [
    "HeadDocument",
    "HeadStage",
    "LastBlock",
    "TrainedHead",
    "write_head",
]

_WEIGHTS, _DOCUMENT, _WORDS = "head.safetensors", "head.json", "words.yaml"


class HeadDocument(BaseModel):
    """What is known of a head besides its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """The fingerprint of the weights below it (`fingerprint`)."""
    outputs: tuple[str, ...] = Field(min_length=1)
    """The first decides, the others are categories."""
    flag: float
    """Log-odds of the first stage's average above which it is asked."""
    worded: float | None = None
    """The same for an exchange that says one of the words beside it (`TrainedHead.words`); None: there are
    none."""
    mix: float = Field(ge=0)
    """Weight of that average in what is compared with the threshold."""
    threshold: float
    lift: float = Field(default=0.0, ge=0)
    """What a word of `TrainedHead.words` that was said adds to what is compared with the threshold."""
    hold_back: int = Field(ge=0)
    """Tokens, of both stages."""
    benign: int = Field(ge=0)
    """Exchanges the threshold was chosen on."""
    false_positives: float = Field(ge=0, le=1)
    """The upper confidence bound of their share that is blocked."""
    flagged: float = Field(ge=0, le=1)
    """Share of these that the first stage flags: what the second costs."""


class LastBlock(nn.Module):
    """A block, a norm, and linear outputs of what comes of them.

    Args:
        model: whose last block it begins as a copy of.
        outputs: how many (K).
    """

    def __init__(self, model: Transformer, outputs: int) -> None:
        super().__init__()
        self.block: Block = copy.deepcopy(model.model.layers[-1])  # pyright: ignore[reportAttributeAccessIssue]
        self.norm = copy.deepcopy(model.model.norm)
        self.out = nn.Linear(model.config.hidden_size, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, -3.0)
        self.float().requires_grad_(True)

    def forward(
        self,
        stream_BTD: Tensor,
        model: Transformer,
        positions_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Log-odds [B, T, K]; `model` lends its rotary table, the rest as `stream_before`."""
        stream_BTD, cached = stream_BTD.float(), cache is not None
        places_BT = torch.zeros(stream_BTD.shape[:2], dtype=torch.long, device=stream_BTD.device)
        cos, sin = model.rotary.at(places_BT, positions_BT, stream_BTD.dtype)
        biases = make_biases(None, stream_BTD, positions_BT, model.config, cached=cached, learns=not cached)
        return self.out(self.norm(self.block(stream_BTD, cos, sin, biases, cache)))


class TrainedHead(Artifact):
    """A head on disk."""

    def document(self) -> HeadDocument:
        """What is known of it.

        Raises:
            UserError: when it is missing or damaged.
        """
        return self.parse(_DOCUMENT, HeadDocument)

    def weights(self) -> dict[str, Tensor]:
        """Its tensors by name.

        Raises:
            UserError: when they are missing, damaged, or not all numbers.
        """
        path = self.file(_WEIGHTS)
        try:
            found = load_file(path)
        except (SafetensorError, ValueError, OSError) as error:
            raise UserError(
                f"the head's weights are damaged: {error}", where=str(path), fix="train it again"
            ) from None
        if not all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
            raise UserError("the head's weights are not all numbers", where=str(path), fix="train it again")
        return found

    def words(self) -> KeywordList | None:
        """The words that flag an exchange, where its document says that there are any.

        Raises:
            UserError: when they are missing or damaged.
        """
        return None if self.document().worded is None else KeywordList.load(self.file(_WORDS))


def write_head(
    folder: Path, head: LastBlock, document: HeadDocument, words: KeywordList | None = None
) -> TrainedHead:
    """Write a head into an existing folder, and the words that flag where its document counts on them."""
    assert (words is None) == (document.worded is None)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / _WEIGHTS)
    (folder / _DOCUMENT).write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if words is not None:
        text = yaml.safe_dump(words.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        (folder / _WORDS).write_text(text, encoding="utf-8")
    return TrainedHead(folder)


class HeadStage:
    """A trained head as the second stage of a cascade.

    Args:
        document: what is known of it.
        weights: its tensors.
        where: the folder, for errors.
    """

    def __init__(
        self, document: HeadDocument, weights: dict[str, Tensor], *, where: str = "the head"
    ) -> None:
        self.document, self._weights, self._where = document, weights, where
        self._network: Transformer | None = None
        self._head: LastBlock | None = None
        self._native: NativeHead | None = None

    @classmethod
    def load(cls, folder: Path, *, model: str | None = None) -> HeadStage:
        """The head in `folder`; `model` is the fingerprint of the weights it is to stand on, when known.

        Raises:
            UserError: when it is missing, damaged, or was trained on other weights.
        """
        found = TrainedHead(folder)
        document = found.document()
        if model is not None and document.model != model:
            raise UserError(
                f"the head was trained on the weights {document.model[:12]}, not on {model[:12]}",
                where=str(folder),
                fix="train a head on the weights you serve",
            )
        return cls(document, found.weights(), where=str(folder))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The first decides, the others are categories."""
        return self.document.outputs

    @property
    def threshold(self) -> float:
        """A log-odds."""
        return self.document.threshold

    @property
    def mix(self) -> float:
        """Weight of the first stage."""
        return self.document.mix

    def bind(self, network: Transformer) -> None:
        """Stand on the served model's weights.

        Raises:
            UserError: when the head was made for a model of another shape.
        """
        with torch.device("cpu"):
            head = LastBlock(network, len(self.document.outputs))
        try:
            head.load_state_dict(self._weights)
        except RuntimeError as error:
            raise UserError(
                f"the head does not fit the model: {str(error).splitlines()[0]}",
                where=self._where,
                fix="train a head on the weights you serve",
            ) from None
        self._network, self._head = network, head.to(network.device).eval().requires_grad_(False)
        self._native = NativeHead.made(self._head, network)

    @property
    def follows(self) -> bool:
        """It reads over the engine's trunk, where there is one."""
        return True

    def effort(self, tokens: int, before: int) -> float:
        """FLOPs of the block over the engine's trunk; infinite where PyTorch would have to read."""
        return math.inf if self._native is None else self._native.effort(tokens, before)

    def begin(
        self, prompt: Sequence[int], trunk_TD: NDArray[np.float32] | None = None
    ) -> HeadReading | TrunkReading:
        """Begin to read an exchange, over what the engine has kept of it where that is given.

        Raises:
            ValueError: before `bind`.
        """
        if self._network is None or self._head is None:
            raise ValueError("the head has not been given the model's weights")
        if trunk_TD is not None and self._native is not None:
            return TrunkReading(self._native, len(prompt), trunk_TD)
        return HeadReading(self._head, self._network, prompt)
