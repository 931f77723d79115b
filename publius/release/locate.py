"""Find a model by the words a person uses: a run's name, `run/stage`, or a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from publius.core.errors import UserError
from publius.pipeline import list_runs, show_run
from publius.pipeline.names import did_you_mean

__all__ = ["Located", "locate"]


class Located(NamedTuple):
    """A checkpoint, and the Pocket world it grew up in, if any (its tools answer the model's calls)."""

    checkpoint: Path
    world: Path | None


def _is_language_model(folder: Path) -> bool:
    config = folder / "config.json"
    # as bytes: what is no text is no model either, and a model's own reader says what ails its config
    return config.is_file() and b"ForCausalLM" in config.read_bytes()


def locate(target: str, home: Path) -> Located:
    """The model `target` names: a run's release (or else its last language model), `run/stage`, or a folder.

    Raises:
        UserError: when nothing of that name holds a model, with a suggestion.
    """
    if _is_language_model(Path(target)):
        return Located(Path(target), None)
    name, _, wanted = target.partition("/")
    if name not in list_runs(home):
        raise UserError(
            f"no run and no checkpoint folder is called {target!r}",
            where=str(home.resolve() / "runs"),
            fix=did_you_mean(name, list_runs(home))
            if list_runs(home)
            else "train one: publius run quickstart",
        )
    done = [s for s in show_run(name, home).stages if s.state == "done" and s.record is not None]
    models = {s.name: s.path / "files" for s in done if _is_language_model(s.path / "files")}
    if wanted and wanted not in models:
        fix = did_you_mean(wanted, list(models)) if models else "run its training stages first"
        raise UserError(f"stage {wanted!r} of run {name!r} holds no language model", where=target, fix=fix)
    if not models:
        raise UserError(f"run {name!r} has no finished model", where=target, fix=f"publius run {name}")
    chosen = wanted or ("release" if "release" in models else list(models)[-1])
    worlds = [s.path / "files" for s in done if (s.path / "files" / "almanac.json").exists()]
    return Located(models[chosen], worlds[0] if worlds else None)
