"""The last-block head: the served model with its last block trained again to tell harm, as a second stage.

All but the last block is the served model's own, on its own weights. The block that follows began as a copy
of the served one and sees the whole exchange, prompt and reply, by its attention: what a linear reading of
one state cannot. Published: retraining one final layer matches a classifier of a quarter of the model's size.

It costs one pass over an exchange, in pieces: keys and values of what it has read are kept (`begin`). So it
is asked about flagged traffic only (`cascade`).

Shape letters: B rows, T tokens, D hidden size, K outputs, H key heads, d head dimension.
"""

from __future__ import annotations

import copy
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

__all__ = [
    "HeadDocument",
    "HeadReading",
    "HeadStage",
    "LastBlock",
    "TrainedHead",
    "stream_before",
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


def stream_before(
    model: Transformer, tokens_BT: Tensor, positions_BT: Tensor | None = None, cache: KVCache | None = None
) -> Tensor:
    """The residual stream [B, T, D] that the last block gets; causal, whole rows, or their continuation over
    a cache, with its positions.

    Computed beside the engine's own passes, from the same weights: it leaves no trace in the model.
    """
    x_BTD = model.model.embed_tokens(tokens_BT)
    cos, sin = model.rotary.at(tokens_BT, positions_BT, x_BTD.dtype)
    biases = make_biases(None, x_BTD, positions_BT, model.config, cached=cache is not None)
    for block in list(model.model.layers)[:-1]:
        x_BTD = block(x_BTD, cos, sin, biases, cache)
    return x_BTD


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

    def begin(self, prompt: Sequence[int]) -> HeadReading:
        """Begin to read an exchange.

        Raises:
            ValueError: before `bind`.
        """
        if self._network is None or self._head is None:
            raise ValueError("the head has not been given the model's weights")
        return HeadReading(self._head, self._network, prompt)


class _Kept:
    """Keys and values [1, H, T, d] of what has been read, by layer."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, layer: int, k_BKTd: Tensor, v_BKTd: Tensor) -> tuple[Tensor, Tensor]:
        """As `KVCache.update`."""
        if layer in self._layers:
            k, v = self._layers[layer]
            k_BKTd, v_BKTd = torch.cat((k, k_BKTd), 2), torch.cat((v, v_BKTd), 2)
        self._layers[layer] = k_BKTd, v_BKTd
        return k_BKTd, v_BKTd


class HeadReading:
    """One exchange as the head reads it, each token once.

    Which tokens are read together changes the last digits of what is said of them: whoever wants the same
    digits asks in the same pieces (`cascade` does). What failed once says nothing any more.

    Args:
        head: the block.
        network: the model it stands on.
        prompt: its tokens.
    """

    def __init__(self, head: LastBlock, network: Transformer, prompt: Sequence[int]) -> None:
        self._head, self._network = head, network
        self._next, self._place = list(prompt), 0
        self._kept: _Kept | None = _Kept()

    @torch.no_grad()
    def more(self, drawn: Sequence[int]) -> NDArray[np.float32]:
        """Log-odds [tokens, K] of the next tokens drawn, each at the place its token was drawn from.

        Raises:
            ValueError: after a failure: something would be missing from what was read.
        """
        kept, self._kept = self._kept, None
        if kept is None or not self._next:
            raise ValueError("nothing can be read without what came before it")
        count, device = len(drawn), self._network.device
        if count:
            tokens_BT = torch.tensor([[*self._next, *drawn[:-1]]], device=device)
            positions_BT = torch.arange(tokens_BT.shape[1], device=device)[None] + self._place
            stream_BTD = stream_before(self._network, tokens_BT, positions_BT, kept)
            logits_BTK = self._head(stream_BTD, self._network, positions_BT, kept)
            self._next, self._place = [drawn[-1]], self._place + tokens_BT.shape[1]
            rows = logits_BTK[0, -count:].float().cpu().numpy()
        else:
            rows = np.empty((0, self._head.out.out_features), np.float32)
        self._kept = kept
        return rows
