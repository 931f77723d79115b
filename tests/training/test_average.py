from __future__ import annotations

from pathlib import Path

import pytest
import torch

from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.pipeline import testing_run
from publius.testing import byte_tokenizer, tiny_model
from publius.training import AverageConfig, average


def saved(folder: Path, fill: float | None = None, **shape: int) -> Checkpoint:
    model = tiny_model(**shape)
    if fill is not None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(fill)
    save_checkpoint(folder, model, byte_tokenizer())
    return Checkpoint(folder)


def values(checkpoint: Checkpoint) -> set[float]:
    return {round(float(v), 5) for p in checkpoint.load().parameters() for v in p.detach().unique()}


@pytest.mark.parametrize(
    ("weights", "expected"), [((), 2.0), ((1.0, 3.0), 2.5), ((0.5, 0.5), 2.0), ((0.0, 7.0), 3.0)]
)
def test_the_mean_of_every_parameter(tmp_path: Path, weights: tuple[float, ...], expected: float) -> None:
    models = [saved(tmp_path / "a", 1.0), saved(tmp_path / "b", 3.0)]
    made = average(testing_run(tmp_path / "run"), AverageConfig(weights=weights), models=models)
    assert values(made) == {expected}
    assert made.tokenizer().vocab_size == byte_tokenizer().vocab_size


def test_a_model_averaged_with_itself_is_itself(tmp_path: Path) -> None:
    model = saved(tmp_path / "a")
    made = average(testing_run(tmp_path / "run"), AverageConfig(), models=[model, model])
    for mine, other in zip(made.load().parameters(), model.load().parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weights", [(1.0,), (-1.0, 2.0), (0.0, 0.0)])
def test_weights_that_do_not_fit(tmp_path: Path, weights: tuple[float, ...]) -> None:
    models = [saved(tmp_path / "a", 1.0), saved(tmp_path / "b", 3.0)]
    with pytest.raises(UserError, match="2 models, weights"):
        average(testing_run(tmp_path / "run"), AverageConfig(weights=weights), models=models)


def test_no_models(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 models"):
        average(testing_run(tmp_path), AverageConfig(), models=[])


def test_models_of_different_shapes(tmp_path: Path) -> None:
    models = [saved(tmp_path / "a"), saved(tmp_path / "b", layers=1)]
    with pytest.raises(UserError, match="differ in their shape"):
        average(testing_run(tmp_path / "run"), AverageConfig(), models=models)


def test_models_of_different_tokenizers(tmp_path: Path) -> None:
    models = [saved(tmp_path / "a"), saved(tmp_path / "b")]
    (models[1].path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="differ in their tokenizer"):
        average(testing_run(tmp_path / "run"), AverageConfig(), models=models)
