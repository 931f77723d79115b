"""Published forms come in without a letter lost: expected prompts are concatenated from the source files.

The invented files beside this test have the forms; the real ones are used where a checkout has them
(`shared/data`, inside it or beside it, or the folder in PUBLIUS_SHARED_DATA).
"""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from publius.constitution.lint import doubts
from publius.constitution.principles import Constitution
from publius.constitution.published import import_published, published_principle_id
from publius.constitution.raw_text import Case, RawText
from publius.constitution.styles import make_style
from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.testing import byte_tokenizer

HERE = Path(__file__).parent
T = byte_tokenizer()
ASK = Conversation(messages=(user("What is {a} good hedge?"),))
ANSWER, CRITIQUE, ONE, OTHER = "Box,\n\nor {q} yew.", "It is short.", "Yew.", "Ask {b}."
HEAD = "\n\nConsider the following conversation between a human and an assistant:"
LABELS = {
    "Human": "user", "Assistant": "assistant", "CritiqueRequest": "user", "Critique": "assistant",
    "RevisionRequest": "user", "Revision": "assistant",
}  # fmt: skip


def shared(*names: str) -> Path:
    root = HERE.parents[1]
    places = [Path(p) for p in [os.environ.get("PUBLIUS_SHARED_DATA")] if p]
    for place in [*places, root / "shared/data", root.parent / "shared/data"]:
        found = place.joinpath("constitution", *names)
        if found.exists():
            return found
    pytest.skip(
        f"no shared/data/constitution/{'/'.join(names)} here; set PUBLIUS_SHARED_DATA to test with it"
    )


def load(folder: Path, *names: str) -> Any:
    """The file of the form, under our name or the published one."""
    return json.loads(next(folder / n for n in names if (folder / n).exists()).read_text("utf-8"))


class Source:
    """The published files of the paper's repository, as they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests = load(folder, "requests.json", "CritiqueRevisionInstructions.json")
        self.transcripts = load(folder, "transcripts.json", "CritiqueRevisionFewShotPrompts.json")
        self.questions = load(folder, "questions.json", "RLMadisonInstructions.json")
        self.pairs = load(folder, "pairs.json", "RLMadisonFewShotPrompts.json")
        self.reasonings = load(folder, "reasonings.json", "RLMadisonPrecogFewShotPrompts.json")


@pytest.fixture(params=["invented", "real"])
def source(request: pytest.FixtureRequest) -> Source:
    return Source(HERE / "published" if request.param == "invented" else shared("prompts"))


@pytest.fixture
def imported(source: Source) -> Constitution:
    return import_published([source.folder], name="published")


def prompts(style: Any, c: Constitution) -> Any:
    return make_style(style, c, T, 1 << 30, 99)


def text(ids: list[int]) -> str:
    return T.decode(ids).removeprefix("<|bos|>")


def as_chat(raw: str, *, labels: dict[str, str] = LABELS) -> str:
    """The raw prompt with each label as the turn it stands for."""
    for label, role in labels.items():
        raw = raw.replace(f"\n\n{label}: ", f"<|end|><|{role}|>")
        raw = raw.removesuffix(f"\n\n{label}:") + f"<|end|><|{role}|>" * raw.endswith(f"\n\n{label}:")
    return raw.removeprefix("<|end|>")


def test_critiques_and_revisions_letter_by_letter(source: Source, imported: Constitution) -> None:
    shots = "".join(t.removesuffix("\n\nHuman:") for t in source.transcripts)
    asked = f"{shots}\n\nHuman: What is {{a}} good hedge?\n\nAssistant: {ANSWER}"
    published = [p for e in source.requests.values() for p in product(e["prompt"], [e["edit_request"]])]
    principles = [p for p in imported.principles if p.serves("critique")]
    assert len(principles) == len(published) >= 3
    for principle, (critique, revision) in zip(principles, published, strict=True):
        raw, chat = prompts("raw", imported), prompts("chat", imported)
        assert text(raw.critique(ASK, ANSWER, principle)) == asked + critique
        whole = f"{asked}{critique} {CRITIQUE}{revision}"
        assert text(raw.revision(ASK, ANSWER, principle, CRITIQUE)) == whole
        assert text(chat.critique(ASK, ANSWER, principle)) == as_chat(asked + critique)
        assert text(chat.revision(ASK, ANSWER, principle, CRITIQUE)) == as_chat(whole)


def test_comparisons_letter_by_letter(source: Source, imported: Constitution) -> None:
    principles = [p for p in imported.principles if p.serves("comparison")]
    assert len(principles) == len(source.questions) >= 2
    for principle, question in zip(principles, source.questions, strict=True):
        case = Case(ASK, ONE, OTHER, principle.comparison_question)
        expected, turns = "", ""
        items = [(p["prompt"], p["corrects"][0], p["incorrects"][0]) for p in source.pairs]
        for index, (prompt, good, bad) in enumerate(items):
            a, b = (good, bad) if index % 2 == 0 else (bad, good)
            answer = "(A)" if index % 2 == 0 else "(B)"
            body = f"{HEAD}{prompt}{question}\n (A) [[[{a}]]]\n (B) [[[{b}]]]\nThe answer is:"
            expected += f"{body} {answer}"
            body = f"{HEAD}{prompt}{question}\n (A) [[[{a.strip()}]]]\n (B) [[[{b.strip()}]]]"
            turns += f"<|user|>{body.strip()}<|end|><|assistant|>The answer is: {answer}<|end|>"
        asked = f"{HEAD}\n\nHuman: What is {{a}} good hedge?\n\nAssistant:{question}"
        asked += f"\n (A) [[[{ONE}]]]\n (B) [[[{OTHER}]]]"
        assert text(prompts("raw", imported).comparison(case)) == f"{expected}{asked}\nThe answer is:"
        chat = text(prompts("chat", imported).comparison(case))
        assert chat == f"{turns}<|user|>{asked.strip()}<|end|><|assistant|>The answer is:"


def test_reasonings_letter_by_letter(source: Source, imported: Constitution) -> None:
    frame = "\n\nHuman: Consider the following conversation between a human (H) and an assistant (A):\n\n"
    assert any(shot.verbatim for shot in imported.reasonings), "some deviate from the layout"
    for principle, question in zip(
        [p for p in imported.principles if p.serves("comparison")], source.questions, strict=True
    ):
        bare = question.removeprefix("\n").removesuffix(" Options:")
        case = Case(ASK, ONE, OTHER, principle.comparison_question)
        expected = "".join(t["prompt"].replace("{}", bare) for t in source.reasonings) + (
            f"{frame}H: What is {{a}} good hedge?\n\n{bare}\n (A) [[[{ONE}]]]\n (B) [[[{OTHER}]]]\n\n"
            "Assistant: Let's think step by step:"
        )
        raw = prompts("raw", imported)
        assert text(raw.reasoning(case)) == expected
        assert text(raw.conclusion(case, " Yew is. ")) == f"{expected} Yew is.\n\nHuman:\nSo the answer is:"
        chat = text(prompts("chat", imported).conclusion(case, "Yew is."))
        assert (
            chat.startswith("<|user|>Consider the following") and "Human:" not in chat.split("<|user|>")[-1]
        )
        assert chat.endswith("<|assistant|>Let's think step by step: Yew is.\n\nSo the answer is:")


def test_nothing_is_lost_in_the_file(imported: Constitution) -> None:
    assert Constitution.parse(imported.to_yaml("one\n\ntwo")) == imported
    assert imported.to_yaml("one\n\ntwo").startswith("# one\n#\n# two\nid: published\n")


def test_names_are_stable_and_readable(source: Source, imported: Constitution) -> None:
    names = [p.id for p in imported.principles]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and " " not in name and len(name) < 60 for name in names)
    turned = source.folder.glob("*.json")
    again = import_published(sorted(turned, reverse=True), name="published")
    assert {p.id: (p.text, p.weight) for p in again.principles} == {
        p.id: (p.text, p.weight) for p in imported.principles
    }


def test_the_invented_files_in_detail() -> None:
    c = import_published([HERE / "published"])
    assert [p.id for p in c.principles][:3] == [
        "kinder-gardeners",
        "shorter-still-true",
        "kind0-gardeners-spoken-kindly",
    ]
    halves = [p for p in c.principles if p.id.startswith("kind1")]
    assert [p.weight for p in halves] == [0.5, 0.5] and halves[1].id == f"{halves[0].id}-2"
    assert halves[0].critique_request == "Is the last response too long?  Say why."
    assert halves[0].source == "requests.json: kind1"
    first, second = c.critiques
    assert first.conversation == (
        "My roses have spots.", "You must have been lazy.", "No, I water them daily:\n\n- at dawn\n- at dusk",
    )  # fmt: skip
    assert first.response == " Then you water too much, as the careless do. " and first.verbatim is None
    assert second.unchanged and not first.unchanged
    assert [shot.answer for shot in c.comparisons] == ["A", "B"]
    assert c.comparisons[1].verbatim is not None, "an option begins with a blank"
    assert [shot.verbatim is None for shot in c.reasonings] == [True, False]
    assert c.reasonings[0].conversation == ("How deep do bulbs go?", " Which bulbs?", "Tulips.")
    assert c.categories.keys() == {"revision", "comparison"}
    assert all("kind1" in doubt and "repeats" in doubt for doubt in doubts(c)), (
        "one key, two critique requests"
    )


@pytest.mark.parametrize("kind", ["invented", "real"])
def test_the_one_file_form(kind: str) -> None:
    file = HERE / "swarm.json" if kind == "invented" else shared("cai_critique_revision.json")
    data = json.loads(file.read_text("utf-8"))
    c = import_published([file])
    assert Constitution.parse(c.to_yaml()) == c and not any(p.serves("comparison") for p in c.principles)
    shots = [m for chat in data["system_chat"] for m in chat]
    spoken = "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in shots)
    plain = ""
    for *conversation, response, ask, critique, ask_again, revision in (
        [m["content"] for m in chat] for chat in data["system_chat"]
    ):
        plain += "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {t}" for i, t in enumerate(conversation))
        plain += f"\n\nAssistant: {response}\n\nCritiqueRequest: {ask}\n\nCritique: {critique}"
        plain += f"\n\nRevisionRequest: {ask_again}\n\nRevision: {revision}"
    asked = f"\n\nHuman: What is {{a}} good hedge?\n\nAssistant: {ANSWER}\n\nCritiqueRequest: "
    assert len(c.principles) == len(data["constitutions"])
    for principle, entry in zip(c.principles, data["constitutions"], strict=True):
        raw, chat = prompts("raw", c), prompts("chat", c)
        here = (
            f"<|user|>What is {{a}} good hedge?<|end|><|assistant|>{ANSWER}<|end|><|user|>{entry['critic']}"
        )
        there = f"{here}<|end|><|assistant|>{CRITIQUE}<|end|><|user|>{entry['revision']}"
        assert text(chat.critique(ASK, ANSWER, principle)) == f"{spoken}{here}<|end|><|assistant|>"
        assert text(chat.revision(ASK, ANSWER, principle, CRITIQUE)) == f"{spoken}{there}<|end|><|assistant|>"
        whole = f"{plain}{asked}{entry['critic']}\n\nCritique:"
        assert text(raw.critique(ASK, ANSWER, principle)) == whole
        whole += f" {CRITIQUE}\n\nRevisionRequest: {entry['revision']}\n\nRevision:"
        assert text(raw.revision(ASK, ANSWER, principle, CRITIQUE)) == whole


def test_a_system_text_stands_in_front_of_the_turns() -> None:
    c = import_published([HERE / "swarm.json"])
    said = text(
        prompts("chat", c).critique(ASK.model_copy(update={"system": "Be brief."}), "Yew.", c.principles[0])
    )
    assert said.startswith("<|system|>Be brief.<|end|><|user|>Are bees")


def test_a_direct_revision_shows_no_critique_even_of_a_verbatim_example() -> None:
    c = import_published([HERE / "published"])
    shots = [s.model_copy(update={"verbatim": "\n\nHuman: x"}) for s in c.critiques]
    raw = RawText(c.model_copy(update={"critiques": tuple(shots)}))
    assert raw.critique(ASK, ANSWER, c.principles[-1]).examples == ["\n\nHuman: x"] * 2
    direct = raw.revision(ASK, ANSWER, c.principles[-1], None)
    assert "Critique" not in direct.whole() and "Spots often come" in direct.whole()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("{", "not valid JSON"),
        ("[]", "no published form"),
        ('["some text"]', "no published form"),
        ('{"a": {"prompt": ["x"]}}', "no published form"),
        ('{"constitutions": [{"critic": "x"}]}', "missing 'revision'"),
        ('{"constitutions": [{"critic": 3, "revision": "x"}]}', "not in the published form"),
        ('{"constitutions": [], "system_chat": [[{"role": "user", "content": "x"}]]}', r"system_chat\[0\]"),
        ('{"constitutions": []}', "only examples"),
        ('{"constitutions": [{"critic": "x", "revision": "y", "note": "z"}]}', "known of the key 'note'"),
        ('{"constitutions": [], "more": 1}', "known of the key 'more'"),
        ('[{"prompt": "x", "corrects": "y", "incorrects": "z", "by": "me"}]', "the key 'by'"),
        ('{"a": {"prompt": "\\n\\nCritiqueRequest: x", "edit_request": "y"}}', "a request begins"),
        ('["\\n\\nHuman: a\\n\\nCritiqueRequest: b"]', "transcript 0 has Human, CritiqueRequest"),
        ('["Which? Options:"]', "question 0 is not laid out"),
        ('[{"prompt": "{} and {}"}]', "comparison 0 is not laid out"),
        ('[{"prompt": "\\n\\nAssistant: a", "corrects": "b", "incorrects": "c"}]', "must alternate"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, data: str, what: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(data)
    with pytest.raises(UserError, match=what) as error:
        import_published([file])
    assert "c.json" in error.value.where and error.value.fix


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        import_published([tmp_path / "none.json"])
    with pytest.raises(UserError, match="holds no"):
        import_published([tmp_path])


def test_ids_depend_on_the_text_alone() -> None:
    assert published_principle_id("Please rewrite the response to make it more age-appropriate.") == (
        "age-appropriate"
    )
    assert published_principle_id("Please remove it.", "harmful3") == "harmful3-please-remove-it"
    assert published_principle_id("???") == "principle"
