"""Compiling is an extra: only when it pays, and never an error."""

import os

import pytest
import torch

from publius.pipeline import testing_run
from publius.testing.fakes import tiny_model
from publius.training import compiling
from publius.training.batches import Example, PackedBatches
from publius.training.compiling import PAYS_FROM_FLOPS, can_compile, compile_blocks
from publius.training.language import language_loss
from publius.training.loop import LoopConfig, train_loop

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is put back whatever it was
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    can_compile.cache_clear()
    yield
    can_compile.cache_clear()


def test_auto_looks_at_the_run_and_the_machine(monkeypatch):
    for able in (True, False):
        monkeypatch.setattr(compiling, "can_compile", lambda device, able=able: able)
        assert compile_blocks("auto", CPU, PAYS_FROM_FLOPS) is able
        assert compile_blocks("auto", CPU, PAYS_FROM_FLOPS * 0.99) is False
        assert compile_blocks("auto", torch.device("cuda"), 1e30) is False
        assert compile_blocks(True, CPU, 0.0) is able
        assert compile_blocks(False, CPU, 1e30) is False


def test_a_short_run_does_not_even_try(monkeypatch):
    monkeypatch.setattr(compiling, "can_compile", lambda device: pytest.fail("tried"))
    assert compile_blocks("auto", CPU, 1e12) is False


def test_without_a_compiler_training_goes_on(tmp_path, monkeypatch, capfd):
    def missing(function):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", missing)
    batches = PackedBatches([Example([20, 21, 22])], sequence_length=8, rows=1, seed=0)
    config = LoopConfig(dtype="float32", compile=True)
    assert train_loop(testing_run(tmp_path), tiny_model(), batches, language_loss, config, steps=1).steps == 1
    assert "cannot" in capfd.readouterr().err


@pytest.mark.parametrize("told", [True, False])
def test_where_compiled_code_is_kept(tmp_path, monkeypatch, told):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if told:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    assert can_compile("cpu")
    expected = "/elsewhere" if told else str(tmp_path / "publius/inductor")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == expected
