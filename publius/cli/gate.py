"""The release gate: decide on a model, sign, override, look, verify."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.markup import escape

from publius.cli.base import AsJson, Home, app, print_json
from publius.core.console import console
from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.model.checkpoint import verify as verify_checksums
from publius.pipeline import list_runs
from publius.release.book import copied, latest, place_of
from publius.release.collecting import collect, run_folders
from publius.release.decision import DecisionDocument, Standing, add_signature, read_standing
from publius.release.gate import make_decision, pack
from publius.release.locate import locate
from publius.release.monitors import policy_sha256
from publius.release.permit import add_override, overridable, permit
from publius.release.policy import load_policy
from publius.release.signing import make_key, public_key, read_key, signing_key, trust, trusted_signers

__all__ = ["gate_app"]

gate_app = typer.Typer(help="Decide whether a model may be released.", no_args_is_help=True)
app.add_typer(gate_app, name="gate")

_Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run (its release), run/stage, or a checkpoint folder.")
]
_Role = Annotated[str, typer.Option("--role", help="In which role.")]
_Key = Annotated[
    Path | None, typer.Option("--key", help="The private key, PEM; without: this user's own of that role.")
]
_Policy = Annotated[str, typer.Option("--policy", help="default, strict, or a YAML file.")]


@gate_app.command("decide")
def decide_model(
    model: _Model,
    policy: _Policy = "default",
    run: Annotated[
        str | None, typer.Option("--run", help="Whose evidence counts; without: the run in MODEL.")
    ] = None,
    evidence: Annotated[
        list[Path] | None,
        typer.Option("--evidence", help="A further artifact's folder, or what `publius eval --out` wrote."),
    ] = None,
    helpful: Annotated[
        str | None, typer.Option("--helpful", help="The helpful-only model whose capabilities were measured.")
    ] = None,
    monitors: Annotated[
        Path | None, typer.Option("--monitors", help="The monitors' policy it will be served with.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What the model card calls it.")] = "publius",
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Decide on a model by what was measured on it, and sign as the policy's first role."""
    checkpoint, rules = _checkpoint(model, home), load_policy(policy)
    verify_checksums(checkpoint.path)
    source = run or (model.partition("/")[0] if model.partition("/")[0] in list_runs(home) else None)
    folders = [*(run_folders(source, home) if source else []), *(evidence or ())]
    sha256 = None if monitors is None else policy_sha256(monitors)
    found = collect(
        checkpoint, folders, monitors=sha256,
        helpful=None if helpful is None else _checkpoint(helpful, home), named=evidence or (),
    )  # fmt: skip
    place = place_of(fingerprint(checkpoint), home)
    fresh = place.with_name(f"{place.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    make_decision(fresh, checkpoint, rules, found, name=name, monitors=sha256)
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)
    _tell(read_standing(place), place, as_json)


@gate_app.command("sign")
def sign_decision(
    model: _Model,
    role: _Role = "approver",
    key: _Key = None,
    who: Annotated[str, typer.Option("--who", help="Your name, for the record.")] = "",
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Sign the latest decision on a model; each role with a key of its own."""
    place = copied(_checkpoint(model, home).path, home)
    add_signature(place, role, _private(role, key), who=who)
    _tell(read_standing(place), place, as_json)


@gate_app.command("override")
def override_decision(
    model: _Model,
    sets_aside: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Failed checks or safeguards, or level.NAME.")
    ],
    why: Annotated[str, typer.Option("--why", help="The reason; it is printed on the model card.")],
    who: Annotated[str, typer.Option("--who", help="Who answers for it.")],
    days: Annotated[float, typer.Option("--days", help="For how long.")] = 7.0,
    role: _Role = "evaluator",
    key: _Key = None,
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Record, signed and for a time, that a person sets failed demands of a decision aside."""
    place = copied(_checkpoint(model, home).path, home)
    add_override(place, sets_aside, role=role, key=_private(role, key), who=who, why=why, days=days)
    _tell(read_standing(place), place, as_json)


@gate_app.command("show")
def show_decision(
    model: _Model,
    card: Annotated[bool, typer.Option("--card", help="Print the model card instead.")] = False,
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Show the latest decision on a model, whoever made it, and what stands in its way."""
    place = latest(_checkpoint(model, home).path, home)
    standing = read_standing(place)
    if card:
        print((place / "model_card.md").read_text("utf-8"), end="")
    else:
        _tell(standing, place, as_json)


@gate_app.command("verify")
def verify_model(
    model: _Model,
    policy: Annotated[
        str, typer.Option("--policy", help="The only policy that counts; without: any a trusted key signed.")
    ] = "",
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Check weights, decision, signatures and expiry; exit code 2 unless the model may go out now."""
    checkpoint = _checkpoint(model, home)
    verify_checksums(checkpoint.path)
    place = latest(checkpoint.path, home)
    wanted = load_policy(policy).fingerprint() if policy else None
    found = permit(place, model=fingerprint(checkpoint), policy=wanted)
    told = {"model": found.document.model, "until": found.until.isoformat(), "decision": str(place)}
    if as_json:
        print_json(told | {"overrides": [o.model_dump(mode="json") for o in found.overrides]})
    else:
        print(f"may go out until {told['until']}: {found.document.decision.verdict}, {place}")


@gate_app.command("release")
def release_model(
    model: _Model,
    folder: Annotated[Path, typer.Argument(help="A new folder: weights, decision and card.")],
    home: Home = Path(),
) -> None:
    """Copy a model that may go out, with the decision that permits it."""
    checkpoint = _checkpoint(model, home)
    verify_checksums(checkpoint.path)
    place = latest(checkpoint.path, home)
    permit(place, model=fingerprint(checkpoint))
    if folder.exists():
        raise UserError("this folder is there already", where=str(folder), fix="give a new one")
    pack(folder, checkpoint, place)
    print(folder)


@gate_app.command("key")
def show_key(
    role: Annotated[str, typer.Argument(help="evaluator, approver, or another role of your policy.")],
) -> None:
    """Print this user's public key of a role; make the key when there is none."""
    print(public_key(read_key(make_key(role))))


@gate_app.command("trust")
def trust_key(
    role: Annotated[str, typer.Argument(help="In which its signatures count here.")],
    key: Annotated[str, typer.Argument(help="The public key, 64 hex digits.")],
) -> None:
    """Let somebody's signatures count on this machine."""
    print(trust(role, key))


def _checkpoint(model: str, home: Path) -> Checkpoint:
    return Checkpoint(locate(model, home).checkpoint)


def _private(role: str, key: Path | None) -> Ed25519PrivateKey:
    return signing_key(role) if key is None else read_key(key)


def _tell(standing: Standing, place: Path, as_json: bool) -> None:
    document = standing.document
    blocking = {} if document.decision.allowed else overridable(document)
    if as_json:
        print_json(_facts(standing, place) | {"overridable": blocking})
        return
    decision = document.decision
    colour = "green" if decision.allowed else "red"
    console.print(
        f"[{colour}]{decision.verdict}[/]: policy {escape(document.policy.id)}, needs level "
        f"{decision.needed}, holds {decision.level}; decided {document.issued}, until {document.expires}",
        soft_wrap=True,
    )
    for reason in decision.reasons:
        console.print(f"  - {reason}", markup=False, soft_wrap=True)
    for role in document.policy.signatures:
        signed = standing.signatures.get(role)
        told = f"signed {signed.when} {signed.who}".rstrip() if signed else "not signed yet"
        console.print(f"  {role}: {told}", markup=False)
    for one in standing.overrides:
        console.print(
            f"  override of {', '.join(one.overrides)} by {one.who} ({one.role}), until {one.expires}: "
            f"{one.why}",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    may = [name for name, possible in blocking.items() if possible]
    if blocking and len(may) == len(blocking):
        roles = " or ".join(document.policy.overriders())
        console.print(f"  a {roles} may override: {' '.join(may)}", markup=False, soft_wrap=True)
    if document.decision.requires or document.monitors:
        names = [*document.decision.requires, *([document.monitors[:16]] if document.monitors else [])]
        console.print(f"  served only with: {', '.join(names)}", markup=False)
    print(place)


def _facts(standing: Standing, place: Path) -> dict[str, Any]:
    document: DecisionDocument = standing.document
    trusted = trusted_signers()
    return {
        "folder": str(place),
        "model": document.model,
        "verdict": document.decision.verdict,
        "needed": document.decision.needed,
        "level": document.decision.level,
        "reasons": list(document.decision.reasons),
        "requires": list(document.decision.requires),
        "monitors": document.monitors,
        "policy": document.policy.id,
        "policy_sha256": document.policy_sha256,
        "issued": document.issued,
        "expires": document.expires,
        "signatures": {role: s.model_dump(mode="json") for role, s in standing.signatures.items()},
        "missing_signatures": [r for r in document.policy.signatures if r not in standing.signatures],
        "overrides": [o.model_dump(mode="json") for o in standing.overrides],
        "trusted": trusted,
    }
