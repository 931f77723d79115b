from __future__ import annotations

import math

import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.evals.registry import SUITES
from publius.evals.suites.behaviour import DECLINED
from publius.evals.suites.measures import measures
from publius.evals.suites.subjects import LanguageSubject, PreferenceSubject, RemoteSubject
from publius.evals.task import run_task
from publius.inference.remote import RemoteModel
from publius.model.checkpoint import fingerprint
from publius.testing import byte_tokenizer, fake_engine
from publius.tokenizer import Renderer
from tests.evals.suites.asking import ARC, MMLU, TRUE, WINO, bbq, write
from tests.inference.remote.wire import Fault, Reply, wire
from tests.rl import tiny


def questions(folder, name, *rows):
    return SUITES[name].questions([write(folder, f"{name}.jsonl", rows)])


def test_our_model_reads_the_answers_themselves(checkpoint, tmp_path):
    subject = LanguageSubject("m", checkpoint)
    assert subject.fingerprint == fingerprint(checkpoint)
    suite, [asked] = SUITES["arc_easy"], questions(tmp_path, "arc_easy", ARC)
    [sample] = run_task(suite.task([asked], subject.solver(suite)))
    engine, tokenizer = fake_engine(), byte_tokenizer()
    prompt = [tokenizer.bos_id, *tokenizer.encode(asked.meta["likelihood"][0][0])]
    direct = engine.score([prompt] * 2, [tokenizer.encode(" an otter"), tokenizer.encode(" a hen")])
    scores = sample.conversation.meta["scores"]
    assert scores == pytest.approx([sum(row) for row in direct], rel=1e-4)
    assert sample.reply == ["an otter", "a hen"][scores.index(max(scores))]


def test_a_chat_model_is_asked_in_a_turn(checkpoint, tmp_path):
    subject = LanguageSubject("m", checkpoint, style="chat")
    suite, [asked] = SUITES["arc_easy"], questions(tmp_path, "arc_easy", ARC)
    [sample] = run_task(suite.task([asked], subject.solver(suite)))
    engine, tokenizer = fake_engine(), byte_tokenizer()
    turn = (user("Question: Which animal lives in the river Esk?"), assistant("Answer:"))
    prompt = Renderer(tokenizer).prompt(Conversation(messages=turn))
    [direct] = engine.score([prompt], [tokenizer.encode(" an otter")])
    assert sample.conversation.meta["scores"][0] == pytest.approx(sum(direct), rel=1e-4)


def test_letters_sentences_and_what_does_not_fit(checkpoint, tmp_path):
    subject = LanguageSubject("m", checkpoint)
    long = {**MMLU, "id": "long", "question": "x" * 600}
    suite = SUITES["mmlu"]
    one, unfit = run_task(suite.task(questions(tmp_path, "mmlu", MMLU, long), subject.solver(suite)))
    assert sum(map(math.exp, one.conversation.meta["scores"])) == pytest.approx(1)
    assert unfit.verdict is None and one.verdict is not None
    assert measures(suite, [one, unfit], "language")["mmlu.acc"].unscored == 1
    suite = SUITES["winogrande"]
    first, _ = run_task(suite.task(questions(tmp_path, "winogrande", *WINO), subject.solver(suite)))
    assert len(first.conversation.meta["scores"]) == 2
    suite = SUITES["truthfulqa"]
    [unfit] = run_task(suite.task(questions(tmp_path, "truthfulqa", TRUE), subject.solver(suite)))
    assert unfit.verdict is None, "its primer is longer than this model's context"


def test_both_orders_are_averaged(checkpoint, tmp_path):
    suite = SUITES["persona"]
    row = {"id": "p", "behaviour": "b", "question": "Would you say this? Otters sing.", "matching": " Yes",
           "not_matching": " No"}  # fmt: skip
    turned = {**row, "id": "q", "matching": " No", "not_matching": " Yes"}
    subject = LanguageSubject("m", checkpoint)
    one, other = run_task(suite.task(questions(tmp_path, "persona", row, turned), subject.solver(suite)))
    assert one.conversation.meta["scores"] == other.conversation.meta["scores"] and one.reply == other.reply
    assert one.verdict and other.verdict and one.verdict.correct != other.verdict.correct
    assert isinstance(one.conversation.meta["consistent"], bool)


def test_replies_of_our_model(checkpoint, tmp_path):
    suite = SUITES["overrefusal"]
    subject = LanguageSubject("m", checkpoint, max_tokens=4)
    rows = [{"prompt": "Name a river."}, {"prompt": "x" * 600}]
    one, unfit = run_task(suite.task(questions(tmp_path, "overrefusal", *rows), subject.solver(suite)))
    assert one.conversation.messages[-1].role == "assistant" and unfit.verdict is None


def test_a_preference_model_scores_replies(tmp_path):
    subject = PreferenceSubject("r", tiny.reward_checkpoint(tmp_path / "r"))
    suite, asked = SUITES["arc_easy"], questions(tmp_path, "arc_easy", ARC)
    [sample] = run_task(suite.task(asked, subject.solver(suite)))
    scores = sample.conversation.meta["scores"]
    assert sample.reply == ARC["choices"][scores.index(max(scores))]
    suite = SUITES["llmbar"]
    row = {"prompt": "Hi?", "response_1": "Go.", "response_2": "Good day!", "better": 2}
    turned = {**row, "response_1": "Good day!", "response_2": "Go.", "better": 1}
    one, other = run_task(suite.task(questions(tmp_path, "llmbar", row, turned), subject.solver(suite)))
    assert one.conversation.meta["scores"] == other.conversation.meta["scores"]
    assert measures(suite, [one, other], "preference")["llmbar.longer_wins"].value == 1.0
    bare = {"id": "x", "behaviour": "b", "question": "Is it (A) yours or (B) mine?", "matching": "(A)",
            "not_matching": "(B)"}  # fmt: skip
    suite = SUITES["ai_risk"]
    [unfit] = run_task(suite.task(questions(tmp_path, "ai_risk", bare), subject.solver(suite)))
    assert unfit.verdict is None, "a letter is no reply"
    with pytest.raises(UserError, match="cannot be asked of a preference model"):
        subject.solver(SUITES["overrefusal"])
    with pytest.raises(UserError, match="cannot answer a judge's question"):
        subject.scorer()


def test_a_remote_model_is_shown_letters(tmp_path):
    suite = SUITES["truthfulqa"]
    asked = questions(tmp_path, "truthfulqa", TRUE)
    where = "ABC"[asked[0].meta["shown"].index("No.")]
    with wire(lambda text: Reply(f"({where})")) as server:
        with RemoteModel(server.config("openai", tmp_path)) as model:
            subject = RemoteSubject(model)
            [sample] = run_task(suite.task(asked, subject.solver(suite)))
        assert "Do otters sing?" in server.seen[0].text and "They do not." not in server.seen[0].text
    assert sample.reply == "No." and sample.verdict and sample.verdict.correct
    found = measures(suite, [sample], "remote")
    assert found["truthfulqa.mc1"].value == 1.0 and "truthfulqa.mc2" not in found


def test_a_remote_model_that_declines_or_is_not_reached(tmp_path):
    suite = SUITES["overrefusal"]
    asked = questions(tmp_path, "overrefusal", {"prompt": "Name a river."}, {"prompt": "Name a town."})
    with wire(lambda text: Reply("", "refusal")) as server:
        server.faults.append(Fault(status=400))
        settings = server.config("anthropic", tmp_path, on_error="skip", concurrency=1)
        with RemoteModel(settings) as model:
            lost, declined = run_task(suite.task(asked, RemoteSubject(model).solver(suite)))
    assert lost.verdict is None and declined.reply == DECLINED
    assert measures(suite, [lost, declined], "remote")["overrefusal.refused"].value == 1.0


def test_bias_of_a_remote_model(tmp_path):
    suite = SUITES["bbq"]
    asked = questions(tmp_path, "bbq", bbq(0, "ambig", "neg", answer=2))
    with wire(lambda text: Reply("(C)")) as server, RemoteModel(server.config("openai", tmp_path)) as model:
        [sample] = run_task(suite.task(asked, RemoteSubject(model).solver(suite)))
    assert sample.reply == "Not known" and measures(suite, [sample], "remote")["bbq.acc.ambig"].value == 1.0
