"""Distillation: a smaller model learns the larger one's whole distribution, token by token.

Hinton et al. 2015 (arXiv 1503.02531): beside what was said, the teacher tells how likely everything else
would have been. It needs one tokenizer for both. Where they differ, `teach` has the teacher write text
instead (sequence-level distillation, Kim and Rush 2016, arXiv 1606.07947).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from publius.core.device import compute_dtype, pick_device
from publius.core.errors import UserError
from publius.data.artifacts import Conversations
from publius.model.attention import document_mask
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.model.divergence import distillation_loss, divergence
from publius.model.transformer import Transformer
from publius.pipeline import Run, stage
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.shards import Shards
from publius.training.batches import Batch, Example, PackedBatches
from publius.training.language import check_length, held_out_loss, steps_for
from publius.training.loop import LossSum, to_device, train_loop
from publius.training.sft import SFTConfig, first_examples, mixed_chats, predict_sft, render_all, replayed

__all__ = ["DistillConfig", "distill"]


class DistillConfig(SFTConfig):
    """As fine-tuning, and how much of the loss is the teacher's."""

    share: float = Field(default=0.5, gt=0, le=1)
    """Weight of the divergence from the teacher; the rest is that of what was said."""
    temperature: float = Field(default=1.0, gt=0)
    """Both distributions are softened by it: above 1 the unlikely tokens count for more."""


@stage(version=1, predict=predict_sft, wide=True)
def distill(
    run: Run,
    config: DistillConfig,
    *,
    base: Checkpoint,
    teacher: Checkpoint,
    chats: list[Conversations] | None = None,
    replay: Shards | None = None,
) -> Checkpoint:
    """Train `base` on what is said in `chats`, and on how likely `teacher` finds everything else there.

    The loss is on assistant tokens; with `config.replay` some text is mixed in, with a loss on all of it.
    With text and no chats, all of the text is read.

    Metrics: `val_loss` (nats per token said) and `val_kl` (nats per token from teacher to student), over
    held-out conversations, or held-out text where there are none; `val_kl_before`; `train_loss`,
    `conversations`, `documents`, `tokens_per_second`.

    Raises:
        UserError: for teachers with another tokenizer, nothing to learn from, weights that do not match the
            inputs, or rows longer than the positions of student or teacher.
    """
    student, tokenizer = base.load(), base.tokenizer()
    master = _teacher(config, base, teacher)
    longest = min(student.config.max_position, master.config.max_position)
    check_length(config.sequence_length, longest, "distill.sequence_length")
    examples, held_out, documents = _examples(config, Renderer(tokenizer), student, chats or [], replay)
    batches = PackedBatches(
        examples, sequence_length=config.sequence_length, rows=config.rows, seed=config.seed
    )
    steps = steps_for(config, batches)
    student.to(pick_device(config.device))
    before = _measure(student, master, held_out, config)
    flops = student.config.flops_per_token(config.sequence_length)
    result = train_loop(
        run,
        student,
        batches,
        lambda model, batch: _loss(model, master, batch, config),
        config,
        steps=steps,
        tokens=steps * config.step_tokens,
        flops_per_token=flops + master.config.flops_per_token(config.sequence_length) / 3,
        evaluate=lambda: _measure(student, master, held_out, config),
        label="distill",
    )
    metrics = result.evaluation | {
        "train_loss": result.loss,
        "conversations": len(examples) - documents,
        "documents": documents,
        "tokens_per_second": result.tokens_per_second,
    }
    if "val_kl" in before:
        metrics["val_kl_before"] = before["val_kl"]
    for name, value in metrics.items():
        run.metric(name, value)
    save_checkpoint(run.output, student, tokenizer)
    return Checkpoint(run.output)


def _teacher(config: DistillConfig, base: Checkpoint, teacher: Checkpoint) -> Transformer:
    """The teacher where and in what the student computes, never to be changed."""
    if base.file("tokenizer.json").read_bytes() != teacher.file("tokenizer.json").read_bytes():
        raise UserError(
            "teacher and student have different tokenizers, so their distributions cannot be compared",
            where=f"distill: {teacher.path}",
            fix="let the teacher write answers instead (stage teach_answers), or use tiers of one family",
        )
    device = pick_device(config.device)
    dtype = compute_dtype(device, config.dtype)
    return teacher.load(device=device).to(dtype).requires_grad_(False).eval()


def _examples(
    config: DistillConfig,
    renderer: Renderer,
    student: Transformer,
    chats: Sequence[Conversations],
    text: Shards | None,
) -> tuple[list[Example], list[Example], int]:
    """What is trained on, what is measured on, and how much of the first is documents."""
    if not chats and text is not None:
        if text.vocab_size > student.config.vocab_size:
            raise UserError(
                f"the text uses {text.vocab_size} token ids, the model has {student.config.vocab_size}",
                where="distill.replay",
                fix="tokenize with the tokenizer of the models",
            )
        text.verify()
        read, held = ([Example(ids) for ids in text.documents(split)] for split in ("train", "val"))
        return read, held, len(read)
    if not chats:
        raise UserError(
            "there is nothing to learn from", where="distill", fix="wire chats, or text as replay, or both"
        )
    length = config.sequence_length
    said = render_all(renderer, mixed_chats(config, chats), length).examples
    held = render_all(renderer, [chat for source in chats for chat in source.val()], length).examples
    drawn = replayed(config, said, text, student.config.vocab_size)
    return said + drawn, held, len(drawn)


def _heads(student: Transformer, teacher: Transformer) -> tuple[torch.Tensor, torch.Tensor]:
    """The heads of both, [V, D] and [V, E], over the ids that both have: models of one tokenizer may be
    padded to different sizes (Qwen2.5's 0.5B to 151,936 and 7B to 152,064)."""
    mine, theirs = student.head_weight, teacher.head_weight
    if len(mine) == len(theirs):
        return mine, theirs
    both = min(len(mine), len(theirs))
    return mine[:both], theirs[:both]


def _states(model: Transformer, batch: Batch) -> torch.Tensor:
    """Last states at the places that are trained, [N, D]."""
    mask = document_mask(batch.documents_BT, batch.first, batch.tokens_BT.shape[1])
    hidden_BTD = model.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, mask=mask)
    return hidden_BTD.flatten(0, 1).index_select(0, batch.trained_N)


def _loss(student: Transformer, teacher: Transformer, batch: Batch, config: DistillConfig) -> LossSum:
    with torch.no_grad():
        taught_NE = _states(teacher, batch)
    weights_N = batch.weights_BT.flatten()[batch.trained_N]
    states_ND = _states(student, batch)
    mine_VD, theirs_VE = _heads(student, teacher)
    total = distillation_loss(
        states_ND, mine_VD, taught_NE, theirs_VE,
        batch.targets_BT.flatten()[batch.trained_N], weights_N,
        share=config.share, temperature=config.temperature,
    )  # fmt: skip
    return LossSum(total, weights_N.sum(), batch.targets_BT.numel())


@torch.no_grad()
def _measure(
    student: Transformer, teacher: Transformer, examples: Sequence[Example], config: DistillConfig
) -> dict[str, float]:
    """`val_loss` and `val_kl` over the first held-out examples, up to `eval_tokens`; empty without any."""
    held = first_examples(examples, config.eval_tokens)
    if not held:
        return {}
    packed = PackedBatches(held, sequence_length=config.sequence_length, rows=config.rows, seed=0)
    sums = held_out_loss(student, packed.once())
    kl = 0.0
    for batch in packed.once():
        batch = to_device(batch, student.device)
        weights_N = batch.weights_BT.flatten()[batch.trained_N]
        mine_VD, theirs_VE = _heads(student, teacher)
        pieces = _states(student, batch), mine_VD, _states(teacher, batch), theirs_VE
        kl += float(divergence(*pieces, weights_N).kl)
    return {"val_loss": sums.nll / sums.weight, "val_kl": kl / sums.weight}
