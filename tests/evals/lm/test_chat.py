from __future__ import annotations

import pytest

from publius.core.errors import UserError
from publius.evals.lm import EngineLM
from publius.evals.lm.chat import ChatTemplate
from publius.tokenizer import Renderer

SAID = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which river?"},
    {"role": "assistant", "content": "The Esk."},
    {"role": "user", "content": "And there? "},
]


def test_a_prompt_is_what_transformers_makes_of_it(lm: EngineLM, peer) -> None:
    theirs = peer.tokenizer.apply_chat_template(SAID, tokenize=False, add_generation_prompt=True)
    assert lm.chat(SAID) == theirs
    assert lm.words.encode([theirs]) == [peer.tokenizer.encode(theirs)]


@pytest.mark.parametrize("begun", ["The best answer is", "It is ", "x"])
def test_a_reply_that_is_begun_goes_on(lm: EngineLM, peer, begun: str) -> None:
    said = [*SAID, {"role": "assistant", "content": begun}]
    theirs = peer.tokenizer.apply_chat_template(
        said, tokenize=False, add_generation_prompt=False, continue_final_message=True
    )
    assert lm.chat(said, reply=False) == theirs
    assert said[-1]["content"] == begun  # not changed


def test_its_ids_are_those_the_assistant_is_asked_with(lm: EngineLM) -> None:
    assert set(lm.words.encode([lm.chat(SAID)])[0]) & set(Renderer(lm.engine.tokenizer).tokenizer.special_ids)


def test_a_template_that_knows_no_system_is_asked_without() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ bos_token }}{{ m.content | trim }};{% endfor %}"
    )
    template = ChatTemplate(source, {"bos_token": "<s>"}, "here")
    assert template.render(SAID[:2]) == "<s>Which river?;"
    assert template.render(SAID[1:2], reply=False) == "<s>Which river?"


def test_a_template_that_fails_is_named() -> None:
    with pytest.raises(UserError, match="refuses"):
        ChatTemplate("{% for %}", {}, "here")
    with pytest.raises(UserError, match="no way") as caught:
        ChatTemplate("{{ raise_exception('no way') }}", {}, "here").render(SAID)
    assert caught.value.where == "here"
    with pytest.raises(UserError, match="not in its text"):
        ChatTemplate("nothing", {}, "here").render(SAID, reply=False)


def test_a_checkpoint_without_one_says_so(lm: EngineLM) -> None:
    with pytest.raises(UserError, match="no chat template"):
        EngineLM(lm.engine, lm.words).chat(SAID)
