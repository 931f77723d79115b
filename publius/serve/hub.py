"""The models a server serves: ids, aliases, engines, and how a new release is taken in while serving."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from publius.core.errors import UserError
from publius.evals import fingerprint
from publius.inference.engine import Engine
from publius.model.checkpoint import Checkpoint
from publius.release.gate import Release
from publius.release.locate import locate
from publius.safety.monitor import Monitors
from publius.serve.errors import ApiError
from publius.serve.worker import Worker
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = ["Hub", "ServedModel", "Target"]

TIERS = ("haiku", "sonnet", "opus")


class Target(NamedTuple):
    """What is to be served: an id of its own (or none), and a run, `run/stage` or folder."""

    id: str | None
    name: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """`name`, or `id=name`."""
        before, sign, after = text.partition("=")
        return cls(before, after) if sign and not Path(text).exists() else cls(None, text)


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One model that answers."""

    id: str
    aliases: tuple[str, ...]
    created: int
    """Unix time at which its weights were written."""
    fingerprint: str
    """Of its weights."""
    path: Path
    world: Path | None
    """The Pocket world it grew up in, whose tools can answer its calls."""
    released: bool
    engine: Engine
    renderer: Renderer
    worker: Worker
    monitors: Monitors
    """What looks at its exchanges; a probe reads the states of these weights and no others."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return self.renderer.tokenizer

    @property
    def context(self) -> int:
        """Most tokens of a prompt and its reply together."""
        return self.engine.context


class Hub:
    """Models by id and alias.

    Args:
        targets: what to serve.
        home: where runs lie.
        aliases: further name -> id.
        unreleased: serve models that no gate has allowed.
        rows, most_waiting: of each model, as `ServeConfig`.
        monitors: what looks at the exchanges of a model, by its id and the fingerprint of its weights.
        device: where the models run.

    Raises:
        UserError: for a target that is not there, two of one id, an alias of nothing, and a model without a
            decision that allows it.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        home: Path = Path(),
        aliases: dict[str, str] | None = None,
        unreleased: bool = False,
        rows: int = 64,
        most_waiting: int = 512,
        monitors: Callable[[str, str], Monitors] = lambda id, fingerprint: Monitors(),
        device: str = "cpu",
    ) -> None:
        self._monitors = monitors
        self._targets, self._home, self._unreleased = list(targets), home, unreleased
        self._rows, self._most_waiting, self._device = rows, most_waiting, device
        self._aliases = dict(aliases or {})
        if not targets:
            raise UserError("no model to serve", where="publius serve", fix="name a run, run/stage or folder")
        self._served: dict[str, ServedModel] = {}
        for target in self._targets:
            served = self._load(target)
            if served.id in self._served:
                raise UserError(
                    f"two models are called {served.id!r}",
                    where=target.name,
                    fix=f"give an id: ID={target.name}",
                )
            self._served[served.id] = served
        for alias, name in self._aliases.items():
            if name not in self._served:
                raise UserError(
                    f"alias {alias!r} is of {name!r}, which is not served",
                    where="--alias",
                    fix=f"served: {', '.join(self._served)}",
                )

    def get(self, model: str) -> ServedModel:
        """The model of this id or alias.

        Raises:
            ApiError: not found.
        """
        found = self._served.get(self._aliases.get(model, model))
        if found is None:
            raise ApiError("not_found_error", f"model: {model}")
        return found

    def models(self) -> list[ServedModel]:
        """All of them, in the order given."""
        return list(self._served.values())

    async def reload(self) -> list[str]:
        """Look again at what each target names now; a model with other weights takes over from the old one,
        which writes its replies to their end. What cannot be loaded leaves the old one serving.

        Returns:
            ids that changed.

        Raises:
            UserError: the first thing that was wrong.
        """
        changed: list[str] = []
        for target, old in zip(self._targets, self.models(), strict=True):
            new = await asyncio.to_thread(self._reloaded, target, old)
            if new is not None:
                self._served[old.id] = new
                old.worker.close()
                changed.append(old.id)
        return changed

    def close(self) -> None:
        """End the engines' threads once their replies are written."""
        for served in self.models():
            served.worker.close()

    def _reloaded(self, target: Target, old: ServedModel) -> ServedModel | None:
        found = locate(target.name, self._home)
        if fingerprint(Checkpoint(found.checkpoint)) == old.fingerprint:
            return None
        return self._load(Target(old.id, target.name))

    def _load(self, target: Target) -> ServedModel:
        found = locate(target.name, self._home)
        checkpoint = Checkpoint(found.checkpoint)
        released = (found.checkpoint / "decision").is_dir()
        if released:
            Release(found.checkpoint).verify()
        elif not self._unreleased:
            raise UserError(
                "no gate has decided on this model",
                where=str(found.checkpoint),
                fix="serve a run's release, or add --unreleased (this machine only)",
            )
        model, weights = target.id or _tier_id(target.name), fingerprint(checkpoint)
        monitors = self._monitors(model, weights)
        tokenizer = checkpoint.tokenizer()
        engine = Engine(
            checkpoint.load(device=self._device), tokenizer, max_batch=self._rows, device=self._device
        )
        monitors.bind(engine.model)
        return ServedModel(
            id=model,
            aliases=tuple(alias for alias, name in self._aliases.items() if name == model),
            created=int((found.checkpoint / "config.json").stat().st_mtime),
            fingerprint=weights,
            path=found.checkpoint,
            world=found.world,
            released=released,
            engine=engine,
            renderer=Renderer(tokenizer),
            worker=Worker(engine, most_waiting=self._most_waiting),
            monitors=monitors,
        )


def _tier_id(name: str) -> str:
    """`publius-` and the tier named last in the target, or the smallest, which is what recipes release."""
    named = re.findall("|".join(TIERS), name)
    return f"publius-{named[-1] if named else TIERS[0]}"
