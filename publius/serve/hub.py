"""The models a server serves: ids, aliases, engines, and how a new release is taken in while serving."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from publius.core.errors import UserError
from publius.inference.engine import Engine
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.release.locate import locate
from publius.safety.monitor import Monitors
from publius.serve.admission import Admission, Admitted
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
    admitted: Admitted
    """What the gate's decision on it says; how long it may be served."""
    engine: Engine
    renderer: Renderer
    worker: Worker
    monitors: Monitors
    """What looks at its exchanges; a probe reads the states of these weights and no others."""

    @property
    def released(self) -> bool:
        """Whether a decision permits it."""
        return self.admitted.permit is not None

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
        unreleased: serve models that no gate has allowed; where no `admission` says more.
        admission: who may be served; None asks for a decision, and for no monitors that it does not name.
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
        admission: Admission | None = None,
        rows: int = 64,
        most_waiting: int = 512,
        monitors: Callable[[str, str], Monitors] = lambda id, fingerprint: Monitors(),
        device: str = "cpu",
    ) -> None:
        self._monitors = monitors
        self._targets, self._home = list(targets), home
        self._admission = admission or Admission(unreleased=unreleased)
        self._rows, self._most_waiting, self._device = rows, most_waiting, device
        self._aliases = dict(aliases or {})
        self._reloading = asyncio.Lock()
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
            ApiError: not found, or the decision on it has expired since the server began.
        """
        found = self._served.get(self._aliases.get(model, model))
        if found is None:
            raise ApiError("not_found_error", f"model: {model}")
        if found.admitted.expired():
            raise ApiError("permission_error", f"the decision that let {model} be served has expired")
        return found

    def models(self) -> list[ServedModel]:
        """All of them, in the order given."""
        return list(self._served.values())

    async def reload(self) -> list[str]:
        """Look again at what each target names now, and at the decision on it.

        A model with other weights takes over from the old one, which writes its replies to their end. Of the
        same weights a new decision counts, and so do the monitors it names. What may not be served, or cannot
        be loaded, leaves the old one as it was, until the decision on that expires.

        Of two calls at once the second waits: both would load a new release, and one engine of it be lost.

        Returns:
            ids that changed.

        Raises:
            UserError: the first thing that was wrong, once the other targets have been looked at.
        """
        changed: list[str] = []
        wrong: UserError | None = None
        async with self._reloading:
            for target, old in zip(self._targets, self.models(), strict=True):
                try:
                    new = await asyncio.to_thread(self._reloaded, target, old)
                except UserError as error:
                    wrong = wrong or error
                    continue
                if new is not None:
                    self._served[old.id] = new
                    if new.worker is not old.worker:
                        old.worker.close()
                    changed.append(old.id)
        if wrong is not None:
            raise wrong
        return changed

    def close(self) -> None:
        """End the engines' threads once their replies are written."""
        for served in self.models():
            served.worker.close()

    def _reloaded(self, target: Target, old: ServedModel) -> ServedModel | None:
        found = locate(target.name, self._home)
        if fingerprint(Checkpoint(found.checkpoint)) != old.fingerprint:
            return self._load(Target(old.id, target.name))
        admitted = self._admit(found.checkpoint, old.fingerprint)
        if admitted == old.admitted:
            return None
        if admitted.monitors == old.admitted.monitors:
            return replace(old, admitted=admitted)
        monitors = self._watching(old.id, old.fingerprint, admitted)
        monitors.bind(old.engine.model)
        return replace(old, admitted=admitted, monitors=monitors)

    def _admit(self, checkpoint: Path, weights: str) -> Admitted:
        """Ask for weights by their fingerprint: others may lie there by the time the gate is asked."""
        admitted = self._admission.admit(checkpoint, self._home)
        if admitted.permit is not None and admitted.permit.document.model != weights:
            raise UserError(
                "the checkpoint was changed while the gate was asked about it",
                where=str(checkpoint),
                fix="try again once nothing writes there",
            )
        return admitted

    def _watching(self, id: str, weights: str, admitted: Admitted) -> Monitors:
        """The monitors of a model: those it was admitted with, and no others."""
        monitors = self._monitors(id, weights)
        self._admission.check_monitors(admitted, watching=bool(monitors.monitors))
        return monitors

    def _load(self, target: Target) -> ServedModel:
        found = locate(target.name, self._home)
        checkpoint = Checkpoint(found.checkpoint)
        model, weights = target.id or _tier_id(target.name), fingerprint(checkpoint)
        admitted = self._admit(found.checkpoint, weights)
        monitors = self._watching(model, weights, admitted)
        # monitors take seconds to load, in which a new release may come to lie there
        inner, tokenizer = checkpoint.load_as(weights, device=self._device)
        engine = Engine(inner, tokenizer, max_batch=self._rows, device=self._device, trunk=monitors.follows)
        monitors.bind(engine.model)
        return ServedModel(
            id=model,
            aliases=tuple(alias for alias, name in self._aliases.items() if name == model),
            created=int((found.checkpoint / "config.json").stat().st_mtime),
            fingerprint=weights,
            path=found.checkpoint,
            world=found.world,
            admitted=admitted,
            engine=engine,
            renderer=Renderer(tokenizer),
            worker=Worker(engine, most_waiting=self._most_waiting),
            monitors=monitors,
        )


def _tier_id(name: str) -> str:
    """`publius-` and the tier named last in the target, or the smallest, which is what recipes release."""
    named = re.findall("|".join(TIERS), name)
    return f"publius-{named[-1] if named else TIERS[0]}"
