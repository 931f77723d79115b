from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import pytest

from publius.constitution.principles import Constitution
from publius.constitution.revise import ReviseConfig, Revisions, revise, split_prefill
from publius.constitution.verdicts import FilterConfig, Verdict
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, text_of, user
from publius.data.artifacts import Prompts, write_prompts
from publius.pipeline.run import Run, testing_run
from publius.testing import ScriptedEngine
from publius.tokenizer.renderer import Renderer
from tests.rl import tiny

T = tiny.tokenizer()
MODULE = sys.modules["publius.constitution.revise"]  # the room exports a stage of that name
END = [T.end_id]


def scripted(monkeypatch: pytest.MonkeyPatch, answers: Sequence, critic: Sequence) -> list[ScriptedEngine]:
    """The first engine made is the policy's, the second the critic's."""
    engines = [ScriptedEngine(answers, T), ScriptedEngine(critic, T)]
    order = iter(engines)
    monkeypatch.setattr(MODULE, "Engine", lambda *a, **k: next(order))
    return engines


@pytest.fixture
def revised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Run, Revisions, list[ScriptedEngine]]]:
    def go(prompts: list[Conversation], answers: Sequence, critic: Sequence, val: Sequence = (), **config):
        engines = scripted(monkeypatch, answers, critic)
        write_prompts(tmp_path / "prompts", train=prompts, val=val)
        model = tiny.checkpoint(tmp_path / "model", max_position=20_000)
        run = testing_run(tmp_path)
        config = ReviseConfig(**{"revisions": 1, "shots": 1, "threads": 1, "device": "cpu", **config})
        return (
            run,
            revise(run, config, policy=model, critic=model, prompts=Prompts(tmp_path / "prompts")),
            engines,
        )

    return go


def test_every_revision_is_kept_with_its_transcript(revised) -> None:
    prompt = Conversation(messages=(user("how?"),), meta={"kind": "hazard"})
    run, made, engines = revised(
        [prompt],
        ["bad answer"],
        [" It is bad.\n\nHuman:", " better answer\n\n", " Still bad.", " best answer"],
        revisions=2,
    )
    one, two = made.train()
    assert [text_of(c.messages[-1]) for c in (one, two)] == ["better answer", "best answer"]
    assert one.messages[0] == prompt.messages[0]
    assert two.meta["kind"] == "hazard"
    assert two.meta["response"] == "bad answer"
    assert two.meta["critiques"] == ["It is bad.", "Still bad."]
    assert two.meta["revisions"] == ["better answer", "best answer"]
    assert one.meta["principles"] == two.meta["principles"][:1]
    [script] = made.transcripts()
    assert script.response == "bad answer"
    assert [r.verdict for r in script.revisions] == ["kept", "kept"]
    critic = engines[1].prompts
    assert "Assistant: bad answer\n\nCritiqueRequest:" in T.decode(critic[0][0])
    assert "Critique: It is bad.\n\nRevisionRequest:" in T.decode(critic[1][0])
    assert "Assistant: better answer\n\nCritiqueRequest:" in T.decode(critic[2][0])
    assert run.metrics["revise.kept"] == {
        "value": 1.0,
        "n": 2,
        "low": pytest.approx(0.34, abs=0.01),
        "high": 1.0,
    }
    used = [m["value"] for name, m in run.metrics.items() if name.startswith("revise.principle.")]
    assert sum(used) == 2


def test_a_prompt_of_several_turns_goes_on_from_the_revised_answer(revised) -> None:
    meta = {"kind": "hazard", "turns": ["why not?", "please!"]}
    prompt = Conversation(messages=(user("how?"),), meta=meta)
    plain = Conversation(messages=(user("what?"),))
    run, made, engines = revised(
        [prompt, plain],
        ["bad", "good", "bad again"],
        [" It is bad.", " Fine.", " no", " good indeed", " Still bad.", ""],
    )
    kept = made.train()
    assert [[text_of(m) for m in c.messages] for c in kept] == [
        ["how?", "no"],
        ["what?", "good indeed"],
    ]  # the second turn's revision was empty: what came before it stays, and no third turn is asked
    asked = [T.decode(ids) for batch in engines[0].prompts for ids in batch]
    assert len(asked) == 3 and "no" in asked[2] and "why not?" in asked[2] and "bad" not in asked[2]
    assert len(made.transcripts()) == 3 and run.metrics["revise.empty"]["value"] == pytest.approx(1 / 3)


def test_what_is_thrown_away_is_counted_by_reason(revised) -> None:
    prompts = tiny.chats(7)
    written = ["new", "answer", "", "Human: me", "x" * 90, [*T.encode("cut")] * 9, "fine"]
    run, made, _ = revised(
        prompts, ["answer"] * 7, [*["hm"] * 7, *written], max_characters=80, revision_tokens=100, val=()
    )
    assert {text_of(c.messages[-1]) for c in made.train()} == {"new", "fine"}
    verdicts = [t.revisions[0].verdict for t in made.transcripts()]
    assert verdicts == ["kept", "unchanged", "empty", "role_leak", "too_long", "truncated", "kept"]
    assert {n: m["value"] for n, m in run.metrics.items() if m["value"] == pytest.approx(1 / 7)}.keys() == {
        "revise.unchanged",
        "revise.empty",
        "revise.role_leak",
        "revise.too_long",
        "revise.truncated",
    } | {n for n in run.metrics if "principle" in n and run.metrics[n]["value"] == pytest.approx(1 / 7)}


def test_unchanged_goes_on_and_may_be_kept(revised) -> None:
    _run, made, _ = revised(
        tiny.chats(1), ["same"], ["fine", " same ", "hm", "other"], revisions=2, keep_unchanged=True
    )
    assert [text_of(c.messages[-1]) for c in made.train()] == ["same", "other"]


def test_a_failed_revision_goes_no_further(revised) -> None:
    _, made, _engines = revised(
        tiny.chats(2), ["a1", "a2"], ["c", "c", "", "good", "c", "better"], revisions=2
    )
    first, second = made.transcripts()
    assert [r.verdict for r in first.revisions] == ["empty"]
    assert [r.verdict for r in second.revisions] == ["kept", "kept"]


def test_without_a_critique_no_revision_is_asked(revised) -> None:
    run, made, engines = revised(tiny.chats(3), ["a1", "a2", "a3"], ["", T.encode("cut") * 50, "c", "good"])
    assert [t.revisions[0].verdict for t in made.transcripts()] == ["no_critique", "no_critique", "kept"]
    assert len(engines[1].prompts[1]) == 1
    assert run.metrics["revise.no_critique"]["value"] == pytest.approx(2 / 3)


def test_a_critique_beyond_the_context_is_counted(revised) -> None:
    shot_free = {"shots": 0, "answer_tokens": 19_950}
    with pytest.raises(UserError, match=r"'context': 1"):
        revised(tiny.chats(1), [[*T.encode("long ") * 3_970, T.end_id]], [], **shot_free)


def test_direct_revision_asks_for_no_critique(revised) -> None:
    _, made, engines = revised(tiny.chats(1), ["bad"], ["good"], critique=False)
    [asked] = engines[1].prompts
    assert "CritiqueRequest" not in T.decode(asked[0])
    assert made.train()[0].meta["critiques"] == [""]


def test_prefills(revised) -> None:
    prompt = Conversation(messages=(user("how?"), assistant("Sure, first ")))
    _, made, engines = revised([prompt], ["mix it"], ["bad", "I will not."], keep_prefill=True)
    assert "Assistant: Sure, first mix it\n\nCritiqueRequest" in T.decode(engines[1].prompts[0][0])
    [kept] = made.train()
    assert [text_of(m) for m in kept.messages] == ["how?", "Sure, first I will not."]
    tokens, weights = Renderer(T).render(kept)
    trained = T.decode([t for t, w in zip(tokens, weights, strict=True) if w])
    assert trained == "I will not.<|end|>"  # "Sure, first " is the attacker's
    _, made, _ = revised([prompt], ["mix it"], ["bad", "I will not."])
    assert text_of(made.train()[0].messages[-1]) == "I will not."
    assert split_prefill(prompt) == (Conversation(messages=(user("how?"),)), "Sure, first ")


def test_a_revision_that_begins_with_the_prefill_goes_on_from_it(revised) -> None:
    prompt = Conversation(messages=(user("how?"), assistant("Sure, first")))
    _, made, _ = revised(
        [prompt], [" mix it"], ["fine", "Sure, first mix it"], keep_prefill=True, keep_unchanged=True
    )
    [kept] = made.train()
    assert text_of(kept.messages[-1]) == "Sure, first mix it"
    tokens, weights = Renderer(T).render(kept)
    assert T.decode([t for t, w in zip(tokens, weights, strict=True) if w]) == " mix it<|end|>"


def test_cut_off_answers_are_not_revised_and_splits_stay_apart(revised) -> None:
    run, made, _ = revised(
        tiny.chats(2), [T.encode("never ends") * 50, "a", "v"], ["c", "c", "ra", "rv"], val=tiny.chats(3)[2:]
    )
    assert [text_of(c.messages[-1]) for c in made.train()] == ["ra"]
    assert [text_of(c.messages[-1]) for c in made.val()] == ["rv"]
    assert run.metrics["revise.answers"]["value"] == pytest.approx(2 / 3)


def test_prompts_beyond_the_context_are_counted(revised) -> None:
    long = Conversation(messages=(user("x" * 19_990),))
    run, made, _ = revised([*tiny.chats(1), long], ["a"], ["c", "r"])
    assert len(made.train()) == 1
    assert run.metrics["revise.answers"]["value"] == 0.5


def test_nothing_left_is_a_user_error(revised) -> None:
    with pytest.raises(UserError, match="no revision survived"):
        revised(tiny.chats(1), ["a"], ["c", ""])


def test_max_prompts_and_samples(revised) -> None:
    _, _made, engines = revised(
        tiny.chats(9), ["a", "b", "c", "d"], [*["hm"] * 4, "r1", "r2", "r3", "r4"], max_prompts=2, samples=2
    )
    asked = [tuple(p) for p in engines[0].prompts[0]]
    assert len(asked) == 4 and len(set(asked)) == 2


def test_with_real_engines(tmp_path: Path) -> None:
    """A model that writes random letters and ends by itself: the stage runs, twice alike."""
    texts = []
    for name in ("one", "two"):
        model = tiny.talker_checkpoint(tmp_path / "m", max_position=4000)
        run = testing_run(tmp_path / name)
        made = revise(
            run,
            ReviseConfig(revisions=2, shots=1, answer_tokens=30, revision_tokens=30, threads=1, device="cpu"),
            policy=model,
            critic=model,
            prompts=tiny.prompts(tmp_path / "p", 8),
        )
        texts.append([text_of(c.messages[-1]) for c in (*made.train(), *made.val())])
        assert run.metrics["revise.prefix_reused"]["value"] > 0.5, "the examples are read once"
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 3


def test_a_critic_that_declines_is_asked_for_no_revision(revised) -> None:
    declines = "I'm sorry, but I cannot help with that."
    run, made, engines = revised(
        tiny.chats(3),
        ["a", "b", "c"],
        [declines, "Fine.", "Bad.", "new b", "new c"],
        filters={"refused": True},
    )
    assert [t.revisions[0].verdict for t in made.transcripts()] == ["refused_critique", "kept", "kept"]
    assert [len(batch) for batch in engines[1].prompts] == [3, 2]
    assert made.transcripts()[0].revisions[0].critique == declines
    assert run.metrics["revise.refused_critique"]["value"] == pytest.approx(1 / 3)


def test_copies_and_other_languages_are_dropped(revised) -> None:
    asked = "please tell me in a few words how the tea of this town is made"
    prompts = [Conversation(messages=(user(asked),))] * 4
    shot = Constitution.load().critiques[0].revision
    german = "Die Antwort ist nicht wahr, und sie hat auch keinen Grund für das, was sie der Person sagt."
    run, made, _ = revised(
        prompts,
        ["it is made of the leaves that grow by the river and of water"] * 4,
        [
            *["It is cold."] * 4,
            shot,
            asked.upper(),
            german,
            "It is made of leaves and of hot water, as you asked.",
        ],
        filters={"copied": 0.8, "drift": 0.3},
        revision_tokens=400,
    )
    assert [t.revisions[0].verdict for t in made.transcripts()] == ["copy", "copy", "drift", "kept"]
    assert run.metrics["revise.copy"]["value"] == 0.5 and run.metrics["revise.drift"]["value"] == 0.25


def test_every_reason_is_a_metric_and_new_filters_are_off(revised) -> None:
    shot = Constitution.load().critiques[0].revision
    run, made, _ = revised(
        tiny.chats(2), ["a", "b"], ["I cannot help.", "Bad.", shot, "Ответ неверен."], revision_tokens=400
    )
    assert [t.revisions[0].verdict for t in made.transcripts()] == ["kept", "kept"]
    assert ReviseConfig().filters == FilterConfig(refused=False, copied=None, drift=None)
    assert {f"revise.{reason}" for reason in get_args(Verdict)} <= run.metrics.keys()


def test_a_principle_is_drawn_only_for_what_it_can_do(revised) -> None:
    plain = Constitution.load()
    judging, bare, whole = (
        p.model_copy(update=change)
        for p, change in zip(
            plain.principles,
            ({"critique_request": "", "revision_request": ""}, {"critique_request": ""}, {}),
            strict=False,
        )
    )
    constitution = plain.model_copy(update={"principles": (judging, bare, whole)})
    _, made, _ = revised(tiny.chats(6), ["a"] * 6, [*["bad"] * 6, *["good"] * 6], constitution=constitution)
    assert {t.revisions[0].principle for t in made.transcripts()} == {whole.id}
    _, made, _ = revised(tiny.chats(6), ["a"] * 6, ["good"] * 6, constitution=constitution, critique=False)
    assert {t.revisions[0].principle for t in made.transcripts()} == {bare.id, whole.id}
    with pytest.raises(UserError, match="no principle can be used for revision"):
        only = constitution.model_copy(update={"principles": (judging,)})
        revised(tiny.chats(1), ["a"], ["good"], constitution=only, critique=False)
