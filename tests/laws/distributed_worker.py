"""Trains one small model in every layout, ranks being forks of this process: imports are done once.

Arguments: FOLDER CASES, the latter JSON: a list of {name, ranks, ...} (see `train`). Of each, rank 0 leaves
`<name>.json` (its log) and `<name>.safetensors` (the whole model at the end, by checkpoint names).
"""

import importlib
import json
import sys
from pathlib import Path

import torch
import torch._dynamo  # what the first optimizer step would import, a second long
import torch.distributed as dist
from safetensors.torch import save_file

from publius.model.fused import split_weights
from publius.model.heads import RewardModel
from publius.model.transformer import Transformer
from publius.pipeline import Run
from publius.testing.fakes import tiny_config
from publius.training import loop
from publius.training.batches import Example, PackedBatches
from publius.training.distributed.ranks import Link
from publius.training.distributed.run import Follower, Leader
from publius.training.language import held_out_loss, language_loss
from publius.training.loop import LoopConfig, LossSum, train_loop
from publius.training.optimizer import OptimizerConfig
from tests.laws.ranks import fork_ranks

torch_flex = importlib.import_module("torch.nn.attention.flex_attention")


class Killed(BaseException):
    """Stands for kill -9 of the whole job."""


def batches():
    g = torch.Generator().manual_seed(0)
    examples = []
    for _ in range(100):  # walks on a ring: the next number is one or two further
        steps = torch.randint(1, 3, (30,), generator=g).cumsum(0)
        examples.append(Example(((steps + int(torch.randint(0, 50, (1,), generator=g))) % 50).tolist()))
    return PackedBatches(examples, sequence_length=64, rows=4, seed=0)


def reward_loss(model, batch):
    last = torch.full((len(batch.tokens_BT),), 20)
    scores = model(batch.tokens_BT, last)
    return LossSum(
        torch.nn.functional.softplus(-scores.float()).sum(),
        torch.tensor(float(len(last))),
        batch.tokens_BT.numel(),
    )


def train(
    run,
    *,
    steps=50,
    parallel=None,
    model=None,
    dtype="float32",
    save_every=0,
    die_at=0,
    accumulation=1,
    recompute="none",
    reward=False,
    flex=False,
):
    """Returns the model and the logged lines. `flex`: FlexAttention's reference, which has gradients."""
    if flex:
        loop.attention_kernel = lambda *_, **__: "flex"
        torch_flex._validate_device = lambda *_: None
        torch_flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True
    net = Transformer(tiny_config(**(model or {})), seed=0)
    whole = RewardModel(net, seed=0) if reward else net
    config = LoopConfig(
        dtype=dtype,
        optimizer=OptimizerConfig(muon_lr=0.01, adamw_lr=0.005),
        parallel=parallel or {},
        save_every=save_every,
        save_seconds=10_000,
        accumulation=accumulation,
        recompute=recompute,
        eval_every=20,
        threads=1,
    )
    calls, lines, log = [0], [], run.log
    run.log = lambda **line: (lines.append(line), log(**line))[1]

    def loss(module, batch):
        calls[0] += 1
        if calls[0] == die_at:
            raise Killed
        return (reward_loss if reward else language_loss)(module, batch)

    def evaluate():
        held = held_out_loss(net, [batches().next()])
        return {"val_loss": held.nll / held.weight}

    evaluate = None if reward else evaluate
    result = train_loop(run, whole, batches(), loss, config, steps=steps, evaluate=evaluate)
    assert result.steps == steps and result.tokens == steps * accumulation * 4 * 64
    return whole, lines


def rank(folder, number, *, name, ranks, state=None, **settings):
    where = Path(folder) / (state or name)
    if ranks == 1:
        run = Run(where, "x")
    else:
        store = dist.FileStore(str(Path(folder) / f"{name}.store"), ranks)
        group = dist.PrefixStore("group", store)
        dist.init_process_group("gloo", store=group, rank=number, world_size=ranks)
        link = Link(dist.PrefixStore("link", store))
        run = (
            Leader(where, "x", link)
            if number == 0
            else Follower(where.with_name(f"{name}-{number}"), "x", link)
        )
    try:
        model, lines = train(run, **settings)
    except Killed:
        run.settle()
        return
    if number == 0:
        (Path(folder) / f"{name}.json").write_text(json.dumps(lines))
        weights = {n: w.detach().clone().contiguous() for n, w in split_weights(model).items()}
        save_file(weights, Path(folder) / f"{name}.safetensors")
    else:
        assert all(p.is_meta for p in model.parameters())


def main():
    folder, cases = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(1)
    for case in cases:
        fork_ranks(case["ranks"], lambda number, case=case: rank(folder, number, **case), case["name"])


main()
