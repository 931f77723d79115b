"""Law: a document in a packed row gives the logits and the loss it gives alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.model.attention import document_mask
from publius.testing.fakes import tiny_model
from publius.training.batches import Example, PackedBatches
from publius.training.language import language_loss

DOCUMENTS = st.lists(st.lists(st.integers(0, 268), min_size=2, max_size=24), min_size=1, max_size=8)
VARIANTS = [{}, {"sliding_window": 6, "window_layers": (0,)}, {"qk_norm": True}, {"no_rope_layers": (0,)}]


@settings(max_examples=25)
@given(DOCUMENTS, st.integers(0, 5), st.sampled_from(VARIANTS))
def test_packed_is_alone(documents, seed, variant):
    model = tiny_model(**variant)
    examples = [Example(ids, [i % 3 / 2 for i in range(len(ids))]) for ids in documents]
    source = PackedBatches(examples, sequence_length=32, rows=4, seed=seed)
    packed_loss, seen = 0.0, []
    with torch.no_grad():
        for batch in source.once():
            mask = document_mask(batch.documents_BT)
            logits = model(batch.tokens_BT, positions_BT=batch.positions_BT, mask=mask)
            packed_loss += float(language_loss(model, batch).total)
            for row in range(len(logits)):
                for number in range(int(batch.documents_BT[row].max()) + 1):
                    here = batch.documents_BT[row] == number
                    tokens = batch.tokens_BT[row, here]
                    torch.testing.assert_close(
                        logits[row, here], model(tokens[None])[0], rtol=1e-4, atol=1e-4
                    )
                    seen.append([*tokens.tolist(), int(batch.targets_BT[row, here][-1])])
        alone = 0.0
        for ids, weights in examples:
            tokens = torch.tensor([ids])
            lp = model(tokens[:, :-1]).log_softmax(-1).gather(2, tokens[:, 1:, None])[0, :, 0]
            alone -= float((lp * torch.tensor(weights[1:])).sum())
    assert sorted(seen) == sorted(documents)
    assert packed_loss == pytest.approx(alone, rel=1e-4, abs=1e-3)


def test_without_the_mask_it_would_not_hold():
    """The law can fail: documents do change each other when nothing separates them."""
    model = tiny_model()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert (model(tokens)[0, 10:] - model(tokens[:, 10:])[0]).abs().max() > 0.01
