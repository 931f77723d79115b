"""Constitutions in the forms they were published in, read into ours without a letter lost.

Two forms, told apart by their shape and freely mixed:

- the files in `prompts/` of the repository beside Bai et al. (2022): `{key: {"prompt", "edit_request"}}`
  (critique and revision requests), lists of transcripts (critique examples), of questions that end in
  "Options:", of `{"prompt", "corrects", "incorrects"}` (comparison examples), and of `{"prompt"}` alone
  (comparisons with their reasoning and a `{}` slot);
- llm-swarm's one file: `{"constitutions": [{"critic", "revision"}], "system_chat": [[messages]]}`.

Labels, cues and blank lines that every text repeats (`\\n\\nCritiqueRequest: `, ` Options:`) are taken off
and put into the layout. An example that the layout does not give back letter by letter keeps its text in
`verbatim`, so what a raw model is shown is always what was published.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from publius.constitution.principles import (
    ComparisonShot,
    Constitution,
    CritiqueShot,
    Layout,
    Principle,
    ReasoningShot,
)
from publius.constitution.raw_text import Case, RawText, talk
from publius.core.errors import UserError

__all__ = ["PUBLISHED_LAYOUT", "import_published", "published_principle_id"]

T = TypeVar("T")

PUBLISHED_LAYOUT = Layout(
    comparison=(
        "\n\nConsider the following conversation between a human and an assistant:"
        "\n\n{conversation}\n\nAssistant:\n{question} Options:"
        "\n (A) [[[{a}]]]\n (B) [[[{b}]]]\nThe answer is:"
    ),
    reasoning=(
        "\n\nHuman: Consider the following conversation between a human (H) and an assistant (A):\n\n"
        "{conversation}\n\n{question}\n (A) [[[{a}]]]\n (B) [[[{b}]]]\n\nAssistant: Let's think step by step:"
    ),
    reasoning_human="\n\nH: {q}",
    reasoning_assistant="\n\nA: {a}",
    conclusion="\n\nHuman:\nSo the answer is:",
    separator="",
    stops=("\n\nHuman:", "\n\nAssistant:", "\n\nCritiqueRequest:", "\n\nRevisionRequest:"),
    chat="turns",
)  # fmt: skip
"""The paper's prompts. Published texts hold blank lines, so only the next speaker's label stops a critic.
For a chat model the conversation stands as real turns, as llm-swarm does it."""


class _Parts(NamedTuple):
    """What the files gave, in their order."""

    principles: list[Principle]
    critiques: list[CritiqueShot]
    comparisons: list[ComparisonShot]
    reasonings: list[ReasoningShot]


def import_published(paths: Sequence[str | Path], *, name: str | None = None) -> Constitution:
    """One constitution from published JSON files, or from folders of them.

    Args:
        name: the constitution's id; else the first file's name.

    Raises:
        UserError: for a file that cannot be read, is in no known form, or (all together) holds no principle.
    """
    files = [file for path in paths for file in _files(Path(path))]
    parts = _Parts([], [], [], [])
    for file in files:
        _read(file, parts)
    if not parts.principles:
        raise UserError(
            "no principles were found, only examples",
            where=", ".join(map(str, files)),
            fix="give the file with the requests or questions too",
        )
    uses = {"revision": "Asked of an answer the model gave.", "comparison": "Asked of two answers."}
    used = {p.category for p in parts.principles}
    return Constitution(
        id=name or _slug(files[0].stem),
        version="1",
        title=f"Imported from {', '.join(file.name for file in files)}",
        categories={use: words for use, words in uses.items() if use in used},
        layout=PUBLISHED_LAYOUT,
        principles=_with_own_ids(parts.principles),
        critiques=tuple(parts.critiques),
        comparisons=tuple(parts.comparisons),
        reasonings=tuple(parts.reasonings),
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.json"))
    if not found:
        raise UserError("the folder holds no .json file", where=str(path), fix="give the published files")
    return found


def _read(file: Path, parts: _Parts) -> None:
    try:
        data = json.loads(file.read_text("utf-8"))
        json.dumps(data, ensure_ascii=False).encode("utf-8")  # half a character is no text
    except OSError as error:
        raise UserError(
            f"cannot read the file: {error.strerror}", where=str(file), fix="give a JSON file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}", where=str(file), fix="give a published file") from error
    for fits, add in _FORMS:
        if fits(data):
            try:
                add(data, file, parts)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                problem = f"missing {error}" if isinstance(error, KeyError) else str(error)
                raise UserError(
                    f"an item is not in the published form: {problem}", where=str(file), fix="mend it"
                ) from error
            return
    raise UserError(
        "this is no published form of a constitution",
        where=str(file),
        fix="see docs/constitution.md for the forms; a constitution.yaml needs no import",
    )


# --- principles


def _requests(data: dict[str, dict[str, Any]], file: Path, parts: _Parts) -> None:
    """`{key: {"prompt": text or texts, "edit_request": ...}}`; several texts share the key's weight."""
    for key, entry in data.items():
        _only(entry, "prompt", "edit_request")
        pairs = list(product(_texts(entry["prompt"]), _texts(entry["edit_request"])))
        for critique, revision in pairs:
            parts.principles.append(
                _revising(
                    _bare(critique, "CritiqueRequest:", "Critique:"),
                    _bare(revision, "RevisionRequest:", "Revision:"),
                    f"{file.name}: {key}",
                    key,
                    1 / len(pairs),
                )
            )


def _swarm(data: dict[str, Any], file: Path, parts: _Parts) -> None:
    _only(data, "constitutions", "system_chat")
    for index, entry in enumerate(data["constitutions"]):
        _only(entry, "critic", "revision")
        critique, revision = entry["critic"], entry["revision"]
        parts.principles.append(_revising(critique, revision, f"{file.name}: constitutions[{index}]"))
    for index, messages in enumerate(data.get("system_chat", ())):
        for message in messages:
            _only(message, "role", "content")
        roles, texts = [m["role"] for m in messages], [m["content"] for m in messages]
        if len(texts) < 6 or roles != ["user", "assistant"] * (len(texts) // 2):
            raise ValueError(f"system_chat[{index}] must alternate user and assistant, six turns or more")
        *conversation, response, ask, critique, ask_again, revision = texts
        parts.critiques.append(
            CritiqueShot(
                conversation=tuple(conversation),
                response=response,
                critique_request=ask,
                critique=critique,
                revision_request=ask_again,
                revision=revision,
            )
        )


def _revising(critique: str, revision: str, source: str, key: str = "", weight: float = 1.0) -> Principle:
    return Principle(
        id=published_principle_id(revision, key),
        text=revision,
        source=source,
        category="revision",
        weight=weight,
        critique_request=critique,
        revision_request=revision,
        comparison_question="",
    )


def _questions(data: list[str], file: Path, parts: _Parts) -> None:
    for index, text in enumerate(data):
        question = text.removeprefix("\n").removesuffix(" Options:")
        if f"\n{question} Options:" != text:
            raise ValueError(f"question {index} is not laid out as the others: a new line, ..., ' Options:'")
        parts.principles.append(
            Principle(
                id=published_principle_id(question),
                text=question,
                source=f"{file.name}: [{index}]",
                category="comparison",
                critique_request="",
                revision_request="",
                comparison_question=question,
            )
        )


def _bare(text: str, label: str, cue: str) -> str:
    """A request without the label before it and the cue behind it, which must both be there or both not."""
    start, end = f"\n\n{label} ", f"\n\n{cue}"
    if text.startswith(start) and text.endswith(end):
        return text.removeprefix(start).removesuffix(end)
    if label in text or text.endswith(cue):
        raise ValueError(f"a request begins {start!r} and ends {end!r}, or has neither: {text[:60]!r}")
    return text


def _only(entry: dict[str, Any], *names: str) -> None:
    """Refuse a key whose value would be lost."""
    more = entry.keys() - set(names)
    if more:
        raise ValueError(f"nothing is known of the key {', '.join(map(repr, sorted(more)))}")


def _texts(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


_DULL_WORDS = """
a all amend an and any anything are as assistant assistants at be being by choose compare content do
does exhibits following for from had has have human if in is it its last least less likely make making
may more most new not of on one or out please possible preceding precedings refrains remove removes
response responses revise revision rewrite s say saying so sounding sounds t that the their them
then these they this to trace two version was way were what when which who with without would write
you your
"""
_DULL = frozenset(_DULL_WORDS.split())
"""Words that most published requests share: they tell none of them from another."""


def published_principle_id(text: str, key: str = "") -> str:
    """A short name that depends on the text alone: the published key, then its first three telling words."""
    words = [w for w in re.findall(r"[a-z]+", text.lower()) if w not in _DULL]
    telling = list(dict.fromkeys(words))[:3] or re.findall(r"[a-z]+", text.lower())[:3] or ["principle"]
    return "-".join([_slug(key)] * bool(key) + telling)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "constitution"


def _with_own_ids(principles: Sequence[Principle]) -> tuple[Principle, ...]:
    """Principles whose names agree are numbered from the second on."""
    seen: Counter[str] = Counter()
    taken = {p.id for p in principles}
    named: list[Principle] = []
    for principle in principles:
        seen[principle.id] += 1
        name, number = principle.id, seen[principle.id]
        while number > 1 and (name := f"{principle.id}-{number}") in taken:
            number += 1
        taken.add(name)
        named.append(principle.model_copy(update={"id": name}))
    return tuple(named)


# --- examples

_LABELS = ("Human", "Assistant", "CritiqueRequest", "Critique", "RevisionRequest", "Revision")
_TURN = re.compile(rf"(?:\A|\n\n)({'|'.join(_LABELS)}): ")
_ANY = Principle(
    id="any", text="any", source="", category="", critique_request="", revision_request="any",
    comparison_question="",
)  # fmt: skip
_RAW = RawText(
    Constitution(id="any", version="1", title="", categories={}, layout=PUBLISHED_LAYOUT, principles=(_ANY,))
)
"""Gives examples back as text, to see whether the layout loses anything of them."""
_SLOT = Case(talk(["any"]), "", "", "{principle}")


def _transcripts(data: list[str], file: Path, parts: _Parts) -> None:
    for index, whole in enumerate(data):
        text = whole.removesuffix("\n\nHuman:")  # the cue of the next speaker: what follows begins with it
        pieces = _TURN.split(text)
        labels, said = pieces[1::2], pieces[2::2]
        turns = len(labels) - 4
        if (
            pieces[0].strip()
            or turns < 2
            or turns % 2
            or labels != [*_LABELS[:2] * (turns // 2), *_LABELS[2:]]
        ):
            found = ", ".join(labels) or "no label"
            raise ValueError(
                f"transcript {index} has {found}; wanted Human, Assistant, {', '.join(_LABELS[2:])}"
            )
        ask, critique, ask_again, revision = said[-4:]
        shot = CritiqueShot(
            conversation=tuple(said[: turns - 1]),
            response=said[turns - 1],
            critique_request=ask,
            critique=critique,
            revision_request=ask_again,
            revision=revision,
        )
        parts.critiques.append(_kept(shot, text, _RAW.critique_example(shot)))


def _pairs(data: list[dict[str, Any]], file: Path, parts: _Parts) -> None:
    """The better answer stands first and second in turn: the published files leave the order open."""
    head, _, _ = PUBLISHED_LAYOUT.comparison.partition("\n\n{conversation}")
    for entry in data:
        _only(entry, "prompt", "corrects", "incorrects")
        prompt = str(entry["prompt"])
        conversation = _alternating(prompt.removesuffix("\n\nAssistant:"), "Human", "Assistant")
        for good, bad in product(_texts(entry["corrects"]), _texts(entry["incorrects"])):
            first = len(parts.comparisons) % 2 == 0
            a, b = (good, bad) if first else (bad, good)
            answer = "A" if first else "B"
            shot = ComparisonShot(conversation=conversation, a=a, b=b, answer=answer)
            options = f"\n (A) [[[{a}]]]\n (B) [[[{b}]]]\nThe answer is: ({answer})"
            published = f"{head}{prompt}\n{{principle}} Options:{options}"
            parts.comparisons.append(_kept(shot, published, _RAW.comparison_example(shot, _SLOT)))


_REASONED = re.compile(
    r"(?P<head>.*?:)\n\n(?P<conversation>H: .*?)\n\n\{\}\n"
    r" \(A\) \[\[\[(?P<a>.*?)\]\]\]\n \(B\) \[\[\[(?P<b>.*?)\]\]\]\n\n"
    r"Assistant: Let's think step by step:(?P<thought>.*)\n\n"
    r"Human:\nSo the answer is: \((?P<answer>[AB])\)",
    re.DOTALL,
)


def _reasoned(data: list[dict[str, str]], file: Path, parts: _Parts) -> None:
    for index, text in enumerate(entry["prompt"] for entry in data):
        found = _REASONED.fullmatch(text)
        if found is None or text.count("{}") != 1 or "{principle}" in text:
            raise ValueError(f"comparison {index} is not laid out as the published ones, with one {{}} slot")
        shot = ReasoningShot(
            conversation=_alternating("\n\n" + found["conversation"], "H", "A"),
            a=found["a"],
            b=found["b"],
            answer=cast("Any", found["answer"]),
            reasoning=found["thought"].strip(),
        )
        slotted = text.replace("{}", "{principle}")
        parts.reasonings.append(_kept(shot, slotted, _RAW.reasoning_example(shot, _SLOT)))


def _alternating(text: str, human: str, assistant: str) -> tuple[str, ...]:
    pieces = re.split(rf"(?:\A|\n\n)({human}|{assistant}): ", text)
    labels, said = pieces[1::2], pieces[2::2]
    if pieces[0].strip() or labels != [(human, assistant)[i % 2] for i in range(len(labels))]:
        raise ValueError(f"a conversation must alternate {human} and {assistant}: {text[:60]!r}")
    return tuple(said)


def _kept(shot: T, published: str, rendered: str) -> T:
    """The example, with the published text when the layout gives another."""
    return shot if published == rendered else shot.model_copy(update={"verbatim": published})  # pyright: ignore


# --- forms


def _all(data: Any, kind: type) -> bool:
    return (
        isinstance(data, list)
        and bool(data)
        and all(isinstance(item, kind) for item in cast("list[Any]", data))
    )


def _mapping_of_requests(data: Any) -> bool:
    values = cast("dict[str, Any]", data).values() if isinstance(data, dict) else ()
    return bool(values) and all(isinstance(v, dict) and "edit_request" in v for v in values)


_FORMS: tuple[tuple[Callable[[Any], bool], Callable[[Any, Path, _Parts], None]], ...] = (
    (lambda data: isinstance(data, dict) and "constitutions" in data, _swarm),
    (_mapping_of_requests, _requests),
    (lambda data: _all(data, dict) and all("corrects" in item for item in data), _pairs),
    (lambda data: _all(data, str) and all("CritiqueRequest:" in text for text in data), _transcripts),
    (lambda data: _all(data, dict) and all(item.keys() == {"prompt"} for item in data), _reasoned),
    (lambda data: _all(data, str) and all(text.rstrip().endswith("Options:") for text in data), _questions),
)
