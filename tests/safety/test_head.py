"""The last-block head: what it sees, what it learns and must not learn, its files."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.core.stats import auroc
from publius.inference.native import library
from publius.safety import head_scores, head_training
from publius.safety.exchanges import Exchange
from publius.safety.head import HeadDocument, HeadStage, LastBlock, TrainedHead, write_head
from publius.safety.head_training import TrainHeadConfig
from publius.safety.rereading import stream_before
from publius.safety.training import Row
from publius.safety.words import words_list
from publius.testing import tiny_model

MODEL = tiny_model()
PROMPT, DRAWN = [5, 9, 30, 7], [40, 41, 17, 60, 3, 8]


def document(**changes: object) -> HeadDocument:
    return HeadDocument.model_validate(
        {"model": "x", "outputs": ["harm", "poison"], "flag": -1.0, "mix": 0.0, "threshold": 0.5,
         "hold_back": 4, "benign": 600, "false_positives": 0.005, "flagged": 0.1, **changes}
    )  # fmt: skip


def random_head(seed: int = 0) -> LastBlock:
    torch.manual_seed(seed)
    head = LastBlock(MODEL, 2)
    torch.nn.init.normal_(head.out.weight)
    return head


def test_what_is_said_of_a_token_depends_on_nothing_behind_it() -> None:
    stage = HeadStage(document(), random_head().state_dict())
    stage.bind(MODEL)
    whole = stage.begin(PROMPT).more(DRAWN)
    assert whole.shape == (6, 2)
    for count in range(1, 7):
        np.testing.assert_allclose(stage.begin(PROMPT).more(DRAWN[:count]), whole[:count], atol=1e-4)
    other = stage.begin([6, *PROMPT[1:]]).more(DRAWN)
    assert not np.allclose(other, whole), "it sees the prompt"


def test_each_token_is_read_once_and_the_pieces_do_not_matter() -> None:
    stage = HeadStage(document(), random_head().state_dict())
    stage.bind(MODEL)
    whole = stage.begin(PROMPT).more(DRAWN)
    for cuts in ((1, 2, 3, 4, 5, 6), (2, 6), (5, 6), (3, 3, 6)):
        reading, before = stage.begin(PROMPT), 0
        for cut in cuts:
            new = reading.more(DRAWN[before:cut])
            np.testing.assert_allclose(new, whole[before:cut], atol=1e-4)
            before = cut
    windowed = tiny_model(sliding_window=4)
    stage.bind(windowed)
    reading = stage.begin(PROMPT)
    pieces = np.concatenate([reading.more(DRAWN[:2]), reading.more(DRAWN[2:3]), reading.more(DRAWN[3:])])
    np.testing.assert_allclose(pieces, stage.begin(PROMPT).more(DRAWN), atol=1e-4)


def test_what_failed_once_is_not_read_on() -> None:
    stage = HeadStage(document(), random_head().state_dict())
    stage.bind(MODEL)
    reading = stage.begin(PROMPT)
    with pytest.raises(IndexError):
        reading.more([10**6, 1])
    with pytest.raises(ValueError, match="came before"):
        reading.more(DRAWN)


@pytest.mark.skipif(library() is None, reason="only the native pass keeps a trunk")
@pytest.mark.parametrize(
    "fields",
    [
        {}, {"sliding_window": 4}, {"no_rope_layers": (1,), "kv_heads": 1},
        {"no_rope_layers": (1,), "sliding_window": 4, "window_layers": (0,)},  # as `longcontext` has them
        {"no_rope_layers": (0,), "sliding_window": 4, "window_layers": (1,)},
    ],
    ids=str,
)  # fmt: skip
def test_over_the_trunk_it_says_the_same_and_no_bit_depends_on_the_pieces(fields: dict[str, Any]) -> None:
    network = tiny_model(max_position=1024, **fields)
    torch.manual_seed(1)
    head = LastBlock(network, 2)
    torch.nn.init.normal_(head.out.weight)
    stage = HeadStage(document(), head.state_dict())
    stage.bind(network)
    assert stage.follows
    prompt, drawn = [5, 9, 30, 7] * 150, DRAWN * 4
    with torch.no_grad():
        trunk_TD = stream_before(network, torch.tensor([[*prompt, *drawn]]))[0].numpy()
    whole = stage.begin(prompt, trunk_TD).more(drawn)
    np.testing.assert_allclose(whole, stage.begin(prompt).more(drawn), atol=1e-4)
    for cuts in ((1, 24), (16, 16, 20, 24), tuple(range(1, 25))):
        reading, before = stage.begin(prompt, trunk_TD), 0
        for cut in cuts:
            assert np.array_equal(reading.more(drawn[before:cut]), whole[before:cut])
            before = cut
    reading = stage.begin(prompt, trunk_TD[:604])
    assert np.array_equal(reading.more(drawn[:5]), whole[:5]), (
        "the last is drawn from the last place there is"
    )
    with pytest.raises(ValueError, match="kept the trunk"):
        reading.more(drawn[5:6])
    with pytest.raises(ValueError, match="came before"):
        reading.more(drawn[5:6])


def test_it_begins_as_the_last_block_of_the_model() -> None:
    head, tokens_BT = LastBlock(MODEL, 1), torch.tensor([PROMPT])
    stream_BTD = stream_before(MODEL, tokens_BT)
    with torch.no_grad():
        head.out.weight.copy_(torch.eye(MODEL.config.hidden_size)[:1])
        head.out.bias.zero_()
        told = head(stream_BTD, MODEL)[..., 0]
        torch.testing.assert_close(told, MODEL.hidden(tokens_BT)[..., 0], atol=1e-4, rtol=1e-4)


def test_the_model_below_is_not_touched() -> None:
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    stage = HeadStage(document(), random_head().state_dict())
    stage.bind(MODEL)
    stage.begin(PROMPT).more(DRAWN)
    assert all(torch.equal(tensor, before[name]) for name, tensor in MODEL.state_dict().items())
    assert not any(parameter.grad is not None for parameter in MODEL.parameters())


def test_files(tmp_path: Path) -> None:
    head = random_head()
    assert write_head(tmp_path, head, document()).words() is None
    stage = HeadStage.load(tmp_path, model="x")
    stage.bind(MODEL)
    before = HeadStage(document(), head.state_dict())
    before.bind(MODEL)
    assert np.array_equal(stage.begin(PROMPT).more(DRAWN), before.begin(PROMPT).more(DRAWN))
    with pytest.raises(UserError, match="trained on the weights"):
        HeadStage.load(tmp_path, model="y")
    with pytest.raises(UserError, match="does not fit"):
        stage.bind(tiny_model(hidden_size=48, intermediate_size=64))
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".json", ".safetensors")]


def test_the_words_that_flag_are_kept_beside_it(tmp_path: Path) -> None:
    words = words_list(["bane", "rumour"])
    found = write_head(tmp_path, random_head(), document(worded=-3.0), words)
    assert found.words() == words and found.document().worded == -3.0
    (tmp_path / "words.yaml").unlink()
    with pytest.raises(UserError):
        found.words()


@pytest.mark.parametrize("name", ["head.json", "head.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage"])
def test_damaged_files_are_one_clear_error(tmp_path: Path, name: str, damage: str) -> None:
    write_head(tmp_path, random_head(), document())
    path = tmp_path / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else b"\x00garbage")
    with pytest.raises(UserError):
        HeadStage.load(tmp_path)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    head = random_head()
    with torch.no_grad():
        head.out.bias.fill_(torch.nan)
    write_head(tmp_path, head, document())
    with pytest.raises(UserError, match="numbers"):
        TrainedHead(tmp_path).weights()


def test_unbound_it_fails() -> None:
    with pytest.raises(ValueError, match="weights"):
        HeadStage(document(), random_head().state_dict()).begin(PROMPT)


def made(count: int, seed: int) -> list[head_scores.ReadExchange]:
    """Exchanges of which a third leak: a token is in their replies that is in no other."""
    rng, found = np.random.default_rng(seed), list[head_scores.ReadExchange]()
    for i in range(count):
        leaks = i % 3 == 0
        tokens = [int(token) for token in rng.integers(10, 60, size=14)]
        if leaks:
            tokens[8] = 70
        exchange = Exchange(
            prompt=Conversation(messages=(user("a"),), meta={"kind": "hazard"}), reply=assistant("b"),
            label="leak" if leaks else "help", kind="hazard", category=("poison", "rumour")[i % 2],
            style="direct", model="x",
        )  # fmt: skip
        row = Row(exchange, tokens, first=5, skipped=0, until=9)
        with torch.no_grad():
            stream_TD = stream_before(MODEL, torch.tensor([tokens]))[0, :-1]
        found.append(head_scores.ReadExchange(row, stream_TD.half(), np.zeros(9)))
    return found


def area(config: TrainHeadConfig) -> float:
    torch.manual_seed(0)
    head = LastBlock(MODEL, 1 + len(head_training.CATEGORIES))
    list(head_training._fitted(head, MODEL, made(150, 0), config))
    test = made(150, 1)
    scored = head_scores.score(test, head_scores.harm_logits(head, MODEL, test), 0.0)
    return auroc(
        [one.both for one in scored if one.row.leaks], [one.both for one in scored if not one.row.leaks]
    ).value


def test_it_finds_what_is_there() -> None:
    assert area(TrainHeadConfig(epochs=4, rate=5e-3)) > 0.9


def test_shuffled_labels_find_nothing() -> None:
    found = [area(TrainHeadConfig(epochs=2, shuffle=True, seed=seed)) for seed in range(6)]
    assert abs(float(np.mean(found)) - 0.5) < 0.12, found


def test_the_first_stage_may_miss_no_more_than_it_is_allowed() -> None:
    leaks = [float(i) for i in range(1000)]
    assert sum(leak <= head_training._flag(leaks, 0.003) for leak in leaks) == 3
    assert sum(leak <= head_training._flag(leaks, 0.0) for leak in leaks) == 0


def test_every_row_is_in_one_batch_of_like_lengths() -> None:

    lengths = [int(length) for length in np.random.default_rng(0).integers(5, 90, size=300)]
    batches = head_training._shuffled(lengths, random.Random(0))
    assert sorted(i for batch in batches for i in batch) == list(range(300))


class Metrics:
    """Takes a run's metrics."""

    def __init__(self) -> None:
        self.found: dict[str, object] = {}

    def metric(self, name: str, value: object) -> None:
        self.found[name] = value


def test_a_bound_is_kept_on_the_benign_pool_and_says_what_is_flagged() -> None:
    rng = np.random.default_rng(0)
    rows = [one.row for one in made(3000, 0)]
    scored = [
        head_scores.ScoredExchange(
            row, 0.0, float(rng.normal(3.0 if row.leaks else 0.0)), bool(rng.random() < 0.5)
        )
        for row in rows
    ]
    run = Metrics()
    found = head_scores.with_bound(run, document(flag=0.0), scored, 0.005)  # type: ignore[arg-type]
    benign = [one for one in scored if not one.row.leaks]
    assert found.benign == len(benign) == 2000 and found.false_positives <= 0.005
    assert sum(one.both > found.threshold for one in benign) == 4  # five would break the bound
    assert found.flagged == pytest.approx(0.5, abs=0.05)
    assert set(run.found) == {"head.benign", "head.mix", "head.threshold"}
