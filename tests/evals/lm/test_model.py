from __future__ import annotations

import pytest
import torch

from publius.core.errors import UserError
from publius.evals.lm import EngineLM
from publius.evals.lm.scoring import windows
from publius.model.checkpoint import Checkpoint
from tests.evals.lm.conftest import CONTEXT, TEXTS

LONG = " ".join(TEXTS)


def test_a_rolling_likelihood_is_the_sum_over_its_windows(lm: EngineLM, peer) -> None:
    texts = [LONG, "The river", "", TEXTS[1]]
    found = lm.loglikelihood_rolling(texts)
    for text, one in zip(texts, found, strict=True):
        ids = peer.tokenizer.encode(text)
        parts = [peer.score(*pair)[0] for pair in windows(ids, peer.tokenizer.bos_token_id, CONTEXT)]
        assert one == pytest.approx(sum(parts), abs=1e-4 * max(1, len(parts)))
    assert found[2] == 0 and len(peer.tokenizer.encode(LONG)) > 2 * CONTEXT


def test_a_text_within_the_context_rolls_as_one_likelihood(lm: EngineLM) -> None:
    [rolled] = lm.loglikelihood_rolling(["The river of Elmford"])
    [whole] = lm.loglikelihood([("", "The river of Elmford")])
    assert rolled == pytest.approx(whole.logprob, abs=1e-6)


def test_greedy_texts_are_those_of_transformers(lm: EngineLM, peer) -> None:
    contexts = ["The river of Elmford", "def double(number):\n", LONG]
    found = lm.generate_until([(context, {"max_gen_toks": 12, "do_sample": False}) for context in contexts])
    for context, text in zip(contexts, found, strict=True):
        ids = peer.tokenizer.encode(context)[-(CONTEXT - 12) :]
        said = peer.tokenizer.decode(peer.greedy(ids, 12), skip_special_tokens=True)
        assert text == said.partition("<|end|>")[0]


def test_a_text_ends_before_the_first_of_its_stops(lm: EngineLM) -> None:
    context = "The river of Elmford"
    [whole] = lm.generate_until([(context, {"max_gen_toks": 16})])
    early, late = whole[3:5], whole[8:10]
    settings = {"max_gen_toks": 16, "until": [late, early, ""]}
    read = lm.engine.stats.read
    [text] = lm.generate_until([(context, settings)])
    assert text == whole.partition(early)[0].partition(late)[0]
    assert lm.engine.stats.read - read < 16 + 10  # it did not go on
    assert lm.generate_until([(context, {"max_gen_toks": 16, "until": early})]) == [whole.partition(early)[0]]


def test_sampled_texts_follow_their_settings_and_seed(merging: Checkpoint) -> None:
    asked = [("The river", {"do_sample": True, "max_new_tokens": 8, "top_k": 50})] * 3

    def texts(seed: int) -> list[str]:
        one = EngineLM.of(merging)
        return EngineLM(one.engine, one.words, seed=seed).generate_until(asked)

    first = texts(1)
    assert first == texts(1) != texts(2)
    assert len({*first}) > 1  # repeats of one question differ
    lm = EngineLM.of(merging)
    assert lm.generate_until([("The river", {"do_sample": True, "temperature": 0, "max_tokens": 4})]) == (
        lm.generate_until([("The river", {"temperature": 0.0, "max_tokens": 4})])
    )


def test_an_unknown_setting_or_no_room_is_refused(lm: EngineLM) -> None:
    with pytest.raises(UserError, match="'num_beams' is no setting"):
        lm.generate_until([("The river", {"num_beams": 4})])
    with pytest.raises(UserError, match="leave no room") as caught:
        lm.generate_until([("The river", {"max_gen_toks": CONTEXT})])
    assert f"at most {CONTEXT - 1}" in caught.value.fix


def test_an_empty_context_is_the_prefix(lm: EngineLM, peer) -> None:
    [text] = lm.generate_until([("", {"max_gen_toks": 5})])
    said = peer.tokenizer.decode(peer.greedy([lm.words.prefix_id], 5), skip_special_tokens=True)
    assert text == said.partition("<|end|>")[0]


def test_bf16_is_near(merging: Checkpoint, lm: EngineLM) -> None:
    asked = [(TEXTS[1], " the mill"), ("", TEXTS[0])]
    half = EngineLM.of(merging, dtype=torch.bfloat16)
    for near, one in zip(half.loglikelihood(asked), lm.loglikelihood(asked), strict=True):
        assert near.logprob != one.logprob
        assert near.logprob == pytest.approx(one.logprob, rel=0.02)
