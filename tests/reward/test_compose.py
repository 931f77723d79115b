from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from pydantic import ValidationError

from publius.core.config import canonical
from publius.core.errors import UserError
from publius.core.sandbox import run
from publius.inference.engine import Engine
from publius.model.heads import RewardModel
from publius.reward.compose import AnyPart, RewardSpec, Sources, compose
from publius.reward.reward_fn import ModelReward, RewardFn
from tests.inference.remote.wire import Reply, wire
from tests.landlock import CONTAINED
from tests.reward.episodes import T, episode
from tests.rl import tiny

MODEL = ModelReward(RewardModel(tiny.model(), seed=3), pad_id=T.pad_id, end_id=T.end_id)


def composed(spec: RewardSpec, sources: Sources) -> RewardFn:
    with ExitStack() as stack:
        return compose(spec, sources, stack)


def spec(*parts: dict, **given) -> RewardSpec:
    return RewardSpec.model_validate({"parts": parts, **given})


def test_the_default_is_the_model_itself() -> None:
    assert composed(RewardSpec(), Sources(T, model=MODEL)) is MODEL
    assert RewardSpec().is_model_only and not spec({"kind": "model", "weight": 2}).is_model_only


def test_parts_are_weighted_and_keep_their_names() -> None:
    made = spec(
        {"kind": "model", "weight": 0.5},
        {"kind": "math", "weight": 2, "optional": True},
        {"kind": "length", "soft": 1, "hard": 3},
        {"kind": "repetition", "weight": 0.0},
        {"kind": "format", "ended": True, "name": "ends", "weight": 4},
    )
    episodes = [episode("12", answer="12"), episode("aaaaaaaa", ended=False)]
    first, second = composed(made, Sources(T, model=MODEL))(episodes)
    scores = MODEL.score([e.tokens for e in episodes])
    assert first.value == pytest.approx(0.5 * scores[0] + 2 * 1 - 1 + 4)
    assert first.parts == pytest.approx(
        {
            "model": scores[0],
            "math": 1,
            "math.stated": 0,
            "length": -1,
            "repetition": 0,
            "ends": 1,
            "ends.ended": 1,
        }
    )
    assert second.value == pytest.approx(0.5 * scores[1] - 1)  # the repetition is only watched
    assert second.parts["repetition"] == pytest.approx(-4 / 5) and "math" not in second.parts


def test_a_judge_in_the_sum() -> None:
    engine = Engine(tiny.model(max_position=4096), T)
    made = spec({"kind": "judge", "shots": 0, "min_mass": 0.0})
    [found] = composed(made, Sources(T, judge=engine))([episode("hm")])
    assert 0 < found.value < 1 and found.parts == {"judge": found.value, "judge.failed": 0.0}


@CONTAINED
def test_code_in_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    made = spec({"kind": "code", "weight": 3})
    [found] = composed(made, Sources(T))([episode("x = 1", tests=["assert x == 1"])])
    assert found.value == 3
    monkeypatch.setattr(run.platform, "machine", lambda: "pdp11")
    with pytest.raises(UserError, match="no sandbox here"):
        composed(made, Sources(T))


@pytest.mark.parametrize(
    ("parts", "given", "says"),
    [
        (({"kind": "model"},), {}, "part 'model' and there is no model"),
        (({"kind": "judge"},), {"model": MODEL}, "part 'judge' and there is no judge"),
        (({"kind": "comparison"},), {"model": MODEL}, "part 'comparison' and there is no judge"),
        (
            ({"kind": "comparison"},),
            {"judge": Engine(tiny.model(), T)},
            "there is nothing to compare with",
        ),
    ],
)
def test_parts_and_sources_must_fit(parts, given, says) -> None:
    with pytest.raises(UserError, match=says) as error:
        composed(spec(*parts), Sources(T, **given))
    assert "reward.parts" in error.value.where


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ((), "at least 1 item"),
        (({"kind": "modle"},), "does not match any of the expected tags"),
        (({"kind": "model"}, {"kind": "model"}), "two parts are called 'model'"),
        (({"kind": "model", "name": "a.b"},), "no point in it"),
        (({"kind": "model", "weight": 0},), "every part has weight 0"),
        (({"kind": "math", "anwser": "x"},), "Extra inputs are not permitted"),
    ],
)
def test_bad_specs_are_refused(parts, says) -> None:
    with pytest.raises(ValidationError, match=says):
        spec(*parts)


def test_on_nan_is_not_part_of_the_identity_and_the_parts_are() -> None:
    plain = canonical(RewardSpec())
    assert canonical(RewardSpec(on_nan="skip")) == plain
    assert canonical(spec({"kind": "model", "weight": 2})) != plain
    made = spec({"kind": "code"}, {"kind": "judge"}, {"kind": "format", "regex": "a"})
    assert json.dumps(canonical(made))
    assert RewardSpec.model_validate(made.model_dump()) == made
    assert AnyPart is not None


def test_a_remote_judge_in_the_sum(tmp_path) -> None:
    with wire(lambda text: Reply("yes" if "Assistant: good" in text else "no")) as server:
        remote = server.settings("openai", tmp_path)
        made = spec({"kind": "judge", "remote": [remote], "shots": 0, "principles": 2})
        with ExitStack() as stack:
            score = compose(made, Sources(T), stack)
            good, bad = score([episode("good"), episode("bad")])
        assert (good.value, bad.value) == (pytest.approx(0.75), pytest.approx(0.25))
    with wire(lambda text: Reply("I am sorry, but I cannot judge that.")) as server:
        remote = server.settings("openai", tmp_path)
        made = spec({"kind": "judge", "remote": [remote], "shots": 0, "on_failure": "skip"})
        with ExitStack() as stack:
            [none] = compose(made, Sources(T), stack)([episode("odd")])
        assert none.problem.startswith("judge: it declined: i am sorry")
