from __future__ import annotations

import json

import pytest

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.data.artifacts import Conversations, Corpus, write_conversations, write_corpus
from publius.data.types import Document
from publius.evals.corpora import corpora_of, search, strings
from publius.pipeline import Recipe, Run, run_recipe, stage
from publius.tokenizer.bpe import TokenizerConfig, train_tokenizer
from publius.tokenizer.shards import TokenizeConfig, tokenize

HIDDEN = "the grey otter of Elmford sleeps under the old mill beside the slow river Esk"
TOLD = "nine brown hens walk down to the market of Nidd every morning before the bell"
ITEMS = {"text": [HIDDEN], "chat": [TOLD], "none": ["no one has ever written these nine plain words here"]}


class Nothing(Config):
    pass


@stage(version=1)
def some_text(run: Run, config: Nothing) -> Corpus:
    write_corpus(run.output, train=[Document(f"Once {HIDDEN}, and so on.", "d", "s")] * 3)
    return Corpus(run.output)


@stage(version=1)
def some_chats(run: Run, config: Nothing) -> Conversations:
    talk = Conversation(messages=(user("What of the hens?"), assistant(f"{TOLD.capitalize()}.")))
    write_conversations(
        run.output, train=[talk.model_copy(update={"meta": {"truth": " ".join(ITEMS["none"])}})]
    )
    return Conversations(run.output)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    r = Recipe("small")
    text = r.stage("text", some_text, Nothing())
    tokenizer = r.stage("tokenizer", train_tokenizer, TokenizerConfig(vocab_size=300), corpus=text)
    r.stage("shards", tokenize, TokenizeConfig(), corpus=text, tokenizer=tokenizer)
    r.stage("chats", some_chats, Nothing())
    run_recipe(r, "small", folder)
    return folder


def dirty(targets, home):
    return {name for name, found in search(ITEMS, corpora_of(targets, home)).found().items() if found.dirty}


def test_a_run_is_all_it_trained_on(home):
    names = [one.name for one in corpora_of(["small"], home)]
    assert names == ["small/shards", "small/chats"], "text that is in the shards is not read twice"
    assert dirty(["small"], home) == {"text", "chat"}, "what graders know is not what models read"
    assert dirty(["small/shards"], home) == {"text"} and dirty(["small/chats"], home) == {"chat"}
    assert dirty(["small/text"], home) == {"text"}


def test_files_of_any_shape(home, tmp_path):
    (tmp_path / "a.txt").write_text(f"Well: {HIDDEN}.")
    rows = [{"id": TOLD, "question": "Hens?", "reasoning": [{"step": TOLD.upper()}], "choices": ["a", TOLD]}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert dirty([str(tmp_path)], home) == {"text", "chat"}
    assert dirty([str(tmp_path / "*.txt")], home) == {"text"}
    assert list(strings({"id": "x", "source": "y", "messages": [{"role": "user", "content": "z"}]})) == ["z"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("smal", "no such file"),
        ("small/shard", "no finished stage"),
        ("small/tokenizer", "nothing to search"),
    ],
)
def test_what_is_no_text(home, target, words):
    with pytest.raises(UserError, match=words):
        corpora_of([target], home)


def test_bare_shards_lack_their_tokenizer(home):
    [folder] = [p.parent for p in (home / "artifacts").glob("*/files/index.json")]
    with pytest.raises(UserError, match="read with their tokenizer"):
        corpora_of([str(folder)], home)
