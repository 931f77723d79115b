"""Trainer and engine over ranks, which are forks of this process: FOLDER RANKS TENSOR.

Each rank scores rows of its own in its own engine and in the sharded model, before and after an update of
the shards; and keeps the weights it gathered. Leaves `<rank>.json` and `<rank>.safetensors`.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from publius.inference.engine import Engine
from publius.model.fused import split_weights
from publius.model.transformer import Transformer
from publius.testing.fakes import byte_tokenizer, tiny_config
from publius.training.distributed.layout import ParallelConfig
from publius.training.distributed.ranks import Ranks
from publius.training.distributed.shard import ShardedModel
from tests.laws.ranks import fork_ranks


def law(folder, number, ranks, tensor):
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=number, world_size=ranks)
    cpu, tokenizer = torch.device("cpu"), byte_tokenizer()
    config = tiny_config(vocab_size=tokenizer.vocab_size, qk_norm=True, tie_embeddings=False)
    model = Transformer(config, seed=0)
    sharded = ShardedModel(model, Ranks(ParallelConfig(tensor=tensor), cpu), torch.float32, cpu)
    engine = Engine(sharded.gather(), tokenizer)
    # ranks of one tensor-parallel group train on the same rows
    rows = [[5 + 11 * (number // tensor), *range(7, 40 + i)] for i in range(3)]
    found = []
    for _ in range(2):
        engine.load(sharded.gather())
        mine = engine.score([row[:20] for row in rows], [row[20:] for row in rows])
        theirs = []
        for row in rows:
            with torch.no_grad():
                logprobs = model.logits(model.hidden(torch.tensor([row]))).log_softmax(-1)[0]
            theirs.append([float(logprobs[i - 1, row[i]]) for i in range(20, len(row))])
        found.append({"engine": mine, "trainer": theirs})
        model.reshard()  # as backward does: FSDP keeps gathered embeddings for it
        for piece in sharded.pieces.values():
            with torch.no_grad():  # an optimizer's step: in place, on this rank's parts
                piece.local.mul_(1.5)
    engine.load(sharded.gather())
    (folder / f"{number}.json").write_text(json.dumps(found))
    weights = {n: w.detach().clone() for n, w in split_weights(engine.model).items()}
    save_file(weights, folder / f"{number}.safetensors")


def main():
    folder, ranks, tensor = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    fork_ranks(ranks, lambda number: law(folder, number, ranks, tensor))


main()
