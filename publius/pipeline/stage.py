"""Stages: one function, a config, typed artifacts in, one typed artifact out.

    @stage(version=1)
    def sft(run: Run, config: SFTConfig, *, base: Checkpoint, chats: list[Conversations]) -> Checkpoint:
        ...
        return Checkpoint(run.output)

A stage stays an ordinary function to call. Beside that it can tell its ports, so that a recipe is
checked before any compute.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from functools import cached_property, update_wrapper
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

from publius.core.config import Config
from publius.core.errors import UserError
from publius.pipeline.artifact import Artifact

__all__ = ["Port", "Signature", "Stage", "stage"]

P = ParamSpec("P")
A = TypeVar("A", bound=Artifact)


class Port(NamedTuple):
    """One input of a stage."""

    types: tuple[type[Artifact], ...]
    many: bool
    required: bool

    def __str__(self) -> str:
        inner = " | ".join(kind.__name__ for kind in self.types)
        return f"list[{inner}]" if self.many else inner


class Signature(NamedTuple):
    """What a stage asks for and gives, read from its annotations."""

    config: type[Config]
    inputs: dict[str, Port]
    output: type[Artifact]


class Stage(Generic[P, A]):
    """A stage function with a version; made by the `stage` decorator.

    Attributes:
        name: the function's name, part of the identity.
        version: bump it by hand when the code changes what it makes.
        predict: config -> predicted `params`, `tokens`, `flops` (numbers), for `publius plan`.
        fingerprint: config -> a JSON-able value of what the stage reads outside the pipeline
            (say the hash of a user's files); it enters the identity.
        light: takes about a second: done in the runner's own process, where a worker would take longer to
            start than to work.
        parallel: whether several processes can do it together (`publius run --nproc`); else one does.
        wide: takes long and gains from every core: where it is the only such stage it waits for short ones to
            end, and then has them all, instead of going on with a share long after those are done.
    """

    def __init__(
        self,
        function: Callable[P, A],
        version: int,
        predict: Callable[[Any], Mapping[str, float | str]] | None,
        fingerprint: Callable[[Any], Any] | None,
        light: bool = False,
        parallel: bool = False,
        wide: bool = False,
    ) -> None:
        update_wrapper(self, function)
        self.function = function
        self.name = function.__name__
        self.version = version
        self.predict = predict
        self.fingerprint = fingerprint
        self.light = light
        self.parallel = parallel
        self.wide = wide

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> A:
        """Call the function as written."""
        return self.function(*args, **kwargs)

    @property
    def where(self) -> str:
        """`module.function`, for messages."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @cached_property
    def signature(self) -> Signature:
        """Ports read from the annotations.

        Raises:
            UserError: for a missing, unresolvable or unfit annotation, naming the parameter.
        """
        try:
            hints = typing.get_type_hints(self.function)
        except NameError as error:
            raise self._bad(f"an annotation of stage {self.name!r} cannot be resolved: {error}") from None
        parameters = list(inspect.signature(self.function).parameters.values())
        if len(parameters) < 2:
            raise self._bad(f"stage {self.name!r} must take (run, config, *, inputs...)")
        for name in [*(parameter.name for parameter in parameters[1:]), "return"]:
            if name not in hints:
                raise self._bad(f"stage {self.name!r} has no annotation on {name!r}")
        config, output = hints[parameters[1].name], hints["return"]
        if not (isinstance(config, type) and issubclass(config, Config)):
            raise self._bad(f"the config of stage {self.name!r} is annotated {config!r}, not a Config class")
        if not _is_artifact(output):
            raise self._bad(f"stage {self.name!r} is annotated to return {output!r}, not an Artifact class")
        inputs = {p.name: self._port(p, hints[p.name]) for p in parameters[2:]}
        return Signature(config, inputs, output)

    def _port(self, parameter: inspect.Parameter, hint: Any) -> Port:
        required = parameter.default is inspect.Parameter.empty
        members = [m for m in _members(hint) if m is not type(None)]
        many = False
        if len(members) == 1 and typing.get_origin(members[0]) in (list, tuple, collections.abc.Sequence):
            many = True
            members = [m for m in _members(typing.get_args(members[0])[0]) if m is not type(None)]
        if (
            parameter.kind is not inspect.Parameter.KEYWORD_ONLY
            or not members
            or not all(map(_is_artifact, members))
        ):
            raise self._bad(
                f"input {parameter.name!r} of stage {self.name!r} is not a keyword-only Artifact, "
                f"optional Artifact or list of Artifacts (it is {hint!r})"
            )
        return Port(tuple(members), many, required)

    def _bad(self, what: str) -> UserError:
        return UserError(what, where=self.where, fix="write def name(run: Run, config: C, *, x: X) -> Y")


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _is_artifact(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Artifact)


def stage(
    *,
    version: int = 1,
    predict: Callable[[Any], Mapping[str, float | str]] | None = None,
    fingerprint: Callable[[Any], Any] | None = None,
    light: bool = False,
    parallel: bool = False,
    wide: bool = False,
) -> Callable[[Callable[P, A]], Stage[P, A]]:
    """Make a function a stage. See `Stage` for the arguments."""

    def decorate(function: Callable[P, A]) -> Stage[P, A]:
        return Stage(function, version, predict, fingerprint, light, parallel, wide)

    return decorate
