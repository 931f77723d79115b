"""Thinking sealed in its signature."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from publius.serve.signatures import seal, unseal

SECRET = bytes(range(32))


@given(st.text(max_size=40), st.text(max_size=10))
def test_what_is_sealed_is_known_again_by_its_model_and_secret_alone(thinking: str, model: str):
    thinking = thinking.encode("utf-8", "replace").decode()
    model = model.encode("utf-8", "replace").decode()
    signature = seal(SECRET, model, thinking)
    assert unseal(SECRET, model, signature) == thinking
    assert unseal(SECRET, model + "x", signature) is None
    assert unseal(bytes(32), model, signature) is None


@given(st.text(max_size=80), st.integers(0, 10_000))
def test_forged_and_changed_signatures_are_none(text: str, at: int):
    assert unseal(SECRET, "m", text) is None
    signature = seal(SECRET, "m", "thought")
    at = 3 + at % (len(signature) - 6)
    changed = signature[:at] + ("A" if signature[at] != "A" else "B") + signature[at + 1 :]
    assert unseal(SECRET, "m", changed) is None
