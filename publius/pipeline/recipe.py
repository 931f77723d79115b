"""Recipes: a Python function that wires stages together. Wiring is checked as it is written.

def tiny(seed: int = 0) -> Recipe:
    recipe = Recipe("tiny")
    world = recipe.stage("world", make_world, WorldConfig(seed=seed))
    recipe.stage("model", train, TrainConfig(), corpus=world)
    return recipe
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from publius.core.config import Config, canonical
from publius.core.errors import UserError
from publius.pipeline.artifact import Artifact
from publius.pipeline.names import check_stage_name, did_you_mean
from publius.pipeline.stage import Port, Stage

__all__ = ["Node", "Published", "Recipe", "parse_setting", "refused"]


class Node:
    """One stage in a recipe: the handle that later stages take as input."""

    def __init__(
        self,
        recipe: Recipe,
        name: str,
        stage: Stage[..., Any],
        config: Config,
        inputs: dict[str, Node | list[Node]],
    ) -> None:
        self.recipe, self.name, self.stage, self.config, self.inputs = recipe, name, stage, config, inputs

    @property
    def output(self) -> type[Artifact]:
        """The artifact class the stage gives."""
        return self.stage.signature.output

    def parents(self) -> list[Node]:
        """The nodes this one reads."""
        nodes: list[Node] = []
        for given in self.inputs.values():
            nodes.extend(given if isinstance(given, list) else [given])
        return nodes

    def __repr__(self) -> str:
        return f"Node({self.name!r}, {self.output.__name__})"


class Published(NamedTuple):
    """A metric shown under a name of the recipe's choosing; a list of stages gives a list (one a round)."""

    stages: tuple[str, ...]
    metric: str
    many: bool


class Recipe:
    """An ordered graph of stages.

    Args:
        name: of the recipe, and of its run unless another is given.
        jobs: how many independent stages run at once unless the runner says otherwise.
    """

    def __init__(self, name: str, *, jobs: int = 1) -> None:
        check_stage_name(name, what="a recipe")
        self.name = name
        self.jobs = jobs
        self.nodes: dict[str, Node] = {}
        self.published: dict[str, Published] = {}
        self.source = name
        self.settings: dict[str, str] = {}

    def stage(
        self, name: str, stage: Stage[..., Any], config: Config, **inputs: Node | Sequence[Node] | None
    ) -> Node:
        """Add a stage.

        Raises:
            UserError: for a name taken, a config of the wrong class or without a stable form, an
                unknown or missing input, or an input of the wrong artifact type.
        """
        check_stage_name(name, where=f"recipe {self.name}")
        where = f"recipe {self.name}, stage {name}"
        if name in self.nodes:
            raise UserError(f"two stages are called {name!r}", where=where, fix="rename one")
        if not isinstance(stage, Stage):
            raise UserError(
                f"{stage!r} is not a stage", where=where, fix="decorate the function with @stage(version=1)"
            )
        wanted = stage.signature
        if not isinstance(config, wanted.config):
            raise UserError(
                f"the config is a {type(config).__name__}, the stage takes a {wanted.config.__name__}",
                where=where,
                fix=f"pass {wanted.config.__name__}(...)",
            )
        try:
            canonical(config)
        except TypeError as error:
            raise UserError(
                str(error), where=where, fix="use text, numbers, lists, dicts and Configs only"
            ) from None
        given = {key: value for key, value in inputs.items() if value is not None}
        for key in given:
            if key not in wanted.inputs:
                raise UserError(
                    f"stage function {stage.name!r} has no input {key!r}",
                    where=where,
                    fix=did_you_mean(key, wanted.inputs),
                )
        wired: dict[str, Node | list[Node]] = {}
        for key, port in wanted.inputs.items():
            if key in given:
                wired[key] = self._connect(key, port, given[key], where)
            elif port.required:
                raise UserError(
                    f"input {key!r} ({port}) is missing", where=where, fix=f"pass {key}=<an earlier stage>"
                )
        self.nodes[name] = node = Node(self, name, stage, config, wired)
        return node

    def _connect(self, key: str, port: Port, value: Node | Sequence[Node], where: str) -> Node | list[Node]:
        if isinstance(value, Node) == port.many:
            form = "a list of stages" if port.many else "one stage"
            raise UserError(f"input {key!r} takes {form}", where=where, fix=f"it is declared {port}")
        nodes = [value] if isinstance(value, Node) else list(value)
        for node in nodes:
            if not isinstance(node, Node) or node.recipe is not self:
                raise UserError(
                    f"input {key!r} is {node!r}, not a stage of this recipe",
                    where=where,
                    fix="pass what recipe.stage(...) returned",
                )
            if not issubclass(node.output, port.types):
                raise UserError(
                    f"input {key!r} takes {port}, but stage {node.name!r} gives {node.output.__name__}",
                    where=where,
                    fix="wire a stage of the right type",
                )
        return nodes if port.many else nodes[0]

    def publish(self, name: str, stages: Node | Sequence[Node], metric: str) -> None:
        """Show `metric` of a stage (or of several: a list, one a round) as `name` in `publius show`."""
        many = not isinstance(stages, Node)
        nodes = list(cast("Sequence[Node]", stages)) if many else [cast("Node", stages)]
        self.published[name] = Published(tuple(node.name for node in nodes), metric, many)

    def override(self, key: str, text: str) -> None:
        """Set one config field, `stage.field` or deeper, from text, typed by the field.

        Raises:
            UserError: for an unknown stage or field (with a suggestion) or a value of the wrong type.
        """
        name, _, path = key.partition(".")
        if name not in self.nodes:
            raise UserError(
                f"unknown stage {name!r}", where=f"--set {key}={text}", fix=did_you_mean(name, self.nodes)
            )
        node = self.nodes[name]
        node.config = _replace(node.config, path.split("."), text, f"--set {key}={text}")
        self.settings[key] = text

    def ancestors(self, name: str) -> list[Node]:
        """The stage `name` and everything it needs, in order."""
        if name not in self.nodes:
            raise UserError(
                f"unknown stage {name!r}", where=f"recipe {self.name}", fix=did_you_mean(name, self.nodes)
            )
        wanted: set[str] = set()
        pending = [self.nodes[name]]
        while pending:
            node = pending.pop()
            if node.name not in wanted:
                wanted.add(node.name)
                pending.extend(node.parents())
        return [node for node in self.nodes.values() if node.name in wanted]


def _replace(config: Config, path: list[str], text: str, where: str) -> Config:
    fields = type(config).model_fields
    name, rest = path[0], path[1:]
    if name not in fields:
        raise UserError(
            f"{type(config).__name__} has no field {name!r}", where=where, fix=did_you_mean(name, fields)
        )
    value = getattr(config, name)
    if rest:
        if not isinstance(value, Config):
            raise UserError(f"{name!r} has no fields of its own", where=where, fix=f"set {name!r} itself")
        fresh: Any = _replace(value, rest, text, where)
    else:
        # The annotation without the field's own constraints: those are checked with the whole config below.
        fresh = parse_setting(fields[name].annotation, text, where)
    try:
        return type(config).model_validate({key: getattr(config, key) for key in fields} | {name: fresh})
    except ValidationError as error:
        raise refused(error, where) from None


def parse_setting(annotation: Any, text: str, where: str) -> Any:
    """Text as a value of the annotated type: as it stands, else as JSON, else as a comma-separated list.

    Raises:
        UserError: when none of these fits, or nothing that is typed on a command line can.
    """
    try:
        adapter = TypeAdapter(annotation)
    except PydanticUserError:  # a class of somebody's own
        name = getattr(annotation, "__name__", str(annotation))
        raise UserError(
            f"a {name} cannot be given as text", where=where, fix="set it in the recipe"
        ) from None
    readings: list[Any] = [text]
    structured = False
    try:
        readings.append(json.loads(text))
        structured = isinstance(readings[1], list | dict)
    except ValueError:
        readings.extend([None] if text in ("None", "none") else [])
    readings.append(text.split(","))
    errors: list[ValidationError] = []
    for reading in readings:
        try:
            return adapter.validate_python(reading)
        except ValidationError as error:
            errors.append(error)
    # what was written as a list or an object was meant as one: what is wrong inside of it is told
    raise refused(errors[1 if structured else 0], where)


def refused(error: ValidationError, where: str) -> UserError:
    """What a config did not accept, as a user's error; an unknown field with a suggestion."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _fields_of(error.title) if len(problem["loc"]) == 1 else []
        fix = did_you_mean(place, known) if known else "remove it, or mend its spelling"
        return UserError(f"{error.title} has no field {place!r}", where=where, fix=fix)
    return UserError(
        f"{place}: {problem['msg']}" if place else problem["msg"], where=where, fix="give a fitting value"
    )


def _fields_of(name: str) -> list[str]:
    """The fields of the Config class of this name (an error of pydantic's does not hold the class)."""
    pending: list[type[Config]] = [Config]
    while pending:
        kind = pending.pop()
        if kind.__name__ == name:
            return list(kind.model_fields)
        pending.extend(kind.__subclasses__())
    return []
