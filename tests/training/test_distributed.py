import json

import pytest
import torch
import torch.distributed as dist

from publius.core.config import canonical
from publius.core.errors import UserError
from publius.pipeline.stop import Stopped
from publius.testing.fakes import tiny_config, tiny_model
from publius.training.batches import Example, PackedBatches, ShuffledBatches
from publius.training.distributed import ParallelConfig, launch
from publius.training.distributed.context import check_rows
from publius.training.distributed.job import Member, lost_contact
from publius.training.distributed.layout import check_model, sizes
from publius.training.distributed.muon import _owners
from publius.training.distributed.ranks import Link
from publius.training.loop import LoopConfig
from publius.training.optimizer import OptimizerConfig, build_optimizers
from publius.training.state import load_state, save_state


def test_the_layout_takes_no_part_in_identity():
    one, many = LoopConfig(), LoopConfig(parallel=ParallelConfig(tensor=2, context=2))
    assert canonical(one) == canonical(many) and one != many


@pytest.mark.parametrize(
    ("config", "ranks", "expected"),
    [
        ({}, 8, (1, 8, 1, 1)),
        ({"replicate": 2, "tensor": 2}, 8, (2, 2, 1, 2)),
        ({"shard": 2, "context": 2, "tensor": 2}, 8, (1, 2, 2, 2)),
    ],
)
def test_sizes_fill_the_ranks(config, ranks, expected):
    assert sizes(ParallelConfig(**config), ranks) == expected


@pytest.mark.parametrize("config", [{"tensor": 3}, {"shard": 2}, {"replicate": 16}])
def test_a_product_that_is_not_the_ranks_is_refused(config):
    with pytest.raises(UserError, match="does not make 8 ranks"):
        sizes(ParallelConfig(**config), 8)


def test_tensor_parallel_must_divide_the_heads():
    check_model(sizes(ParallelConfig(tensor=2), 2), tiny_config())
    with pytest.raises(UserError, match="does not divide the model's kv_heads, 2"):
        check_model(sizes(ParallelConfig(tensor=4), 4), tiny_config())


def test_rows_must_be_cut_evenly_and_windows_are_refused():
    check_rows(64, 4, None)
    check_rows(64, 4, 64)
    with pytest.raises(UserError, match="cannot be cut into 3"):
        check_rows(64, 3, None)
    with pytest.raises(UserError, match="no sliding window"):
        check_rows(64, 4, 32)


def test_shares_of_a_batch_make_the_batch_and_keep_its_place():
    examples = [Example([20 + (i * k) % 50 for k in range(9)]) for i in range(30)]
    whole, shares = packed(examples), [packed(examples) for _ in range(2)]
    for index, source in enumerate(shares):
        source.share(index, 2)
    for _ in range(5):
        batch, parts = whole.next(), [source.next() for source in shares]
        for name in ("tokens_BT", "documents_BT", "weights_BT"):
            assert torch.equal(getattr(batch, name), torch.cat([getattr(part, name) for part in parts]))
        assert {str(source.state()) for source in shares} == {str(whole.state())}
    items = ShuffledBatches(range(12), list, rows=4, seed=0)
    halves = [ShuffledBatches(range(12), list, rows=4, seed=0) for _ in range(2)]
    for index, source in enumerate(halves):
        source.share(index, 2)
    assert items.next() == halves[0].next() + halves[1].next()
    with pytest.raises(UserError, match="4 rows cannot be shared by 3 ranks"):
        whole.share(0, 3)


def packed(examples):
    return PackedBatches(examples, sequence_length=16, rows=4, seed=3)


def test_muons_work_is_shared():
    shapes = {f"w{i}": (64, 32) for i in range(7)} | {"big": (128, 64)}
    owner = _owners(shapes, 2)
    work = [sum(s[0] * s[1] * min(s) for n, s in shapes.items() if owner[n] == rank) for rank in range(2)]
    assert set(owner) == set(shapes) and max(work) <= 0.6 * sum(work)


def test_a_link_keeps_its_order():
    store = dist.HashStore()
    leader, follower = Link(store), Link(store)
    leader.tell("a")
    leader.tell("")
    wait = torch.distributed.default_pg_timeout
    assert [follower.hear(wait), follower.hear(wait)] == ["a", ""]


def test_lost_contact_is_told_from_other_errors():
    def raised(error, cause=None):
        try:
            raise error from cause
        except Exception as caught:
            return caught

    gloo = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    assert lost_contact(gloo) and lost_contact(raised(ValueError("x"), gloo))
    assert lost_contact(dist.DistBackendError("NCCL watchdog"))
    assert not lost_contact(RuntimeError("shapes differ")) and not lost_contact(UserError("x"))


class Failed(Exception):
    """What the elastic launcher raises."""

    def __init__(self, codes):
        self.failures = {rank: type("F", (), {"exitcode": code})() for rank, code in codes.items()}

    def get_first_failure(self):
        return next(iter(self.failures.items()))


def test_what_a_failed_job_says():
    assert launch._told(Failed({0: 2, 1: 3})) == 2  # rank 0 has said what was wrong
    assert launch._told(Failed({1: 3, 0: 1})) == 1
    for codes, words in [
        ({1: -9, 0: 3}, "process 1 of this job was killed by SIGKILL"),
        ({0: -9, 1: 3}, "process 0 of this job was killed by SIGKILL"),
        ({1: 3, 0: -15}, "process 1 of this job ended with code 3"),
    ]:
        with pytest.raises(UserError, match=words):
            launch._told(Failed(codes))
    with pytest.raises(UserError, match="nproc is 0"):
        launch.launch(0, [])


def test_a_state_of_another_model_is_refused(tmp_path):
    model = tiny_model()
    save_state(tmp_path, model, build_optimizers(model, OptimizerConfig()), {"a": 1})
    assert json.loads((tmp_path / "state.json").read_text()) == {"a": 1}
    other = tiny_model(layers=3)
    with pytest.raises(UserError, match=r"has no model\.model\.layers\.2"):
        load_state(tmp_path, other, build_optimizers(other, OptimizerConfig()))


@pytest.mark.parametrize("failure", [UserError("x"), ValueError("x"), dist.DistBackendError("NCCL watchdog")])
def test_a_rank_that_is_ended_while_it_tells_of_a_failure_says_nothing_more(monkeypatch, failure):
    member = Member(dist.HashStore(), 1, 2, 1)
    member._link.tell("{}")

    def fails(given):
        raise failure

    def ended(seconds):
        raise Stopped

    monkeypatch.setattr(member, "_follow", fails)
    monkeypatch.setattr("publius.training.distributed.job.time.sleep", ended)
    assert member.serve() == 0
    assert member.store.check(["failed"]) is not isinstance(failure, dist.DistError)
