"""One model: chat with it, bring it in and out, time it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import torch
import typer
from pydantic import ValidationError

from publius.cli.base import AsJson, Home, app, print_json
from publius.core.device import free_memory, pick_device
from publius.core.errors import UserError
from publius.data.pocket.tools import TOOLS
from publius.data.pocket.world import World
from publius.inference import terminal
from publius.inference.bench import bench_engine
from publius.inference.remote import RemoteAssistant, RemoteConfig
from publius.model.checkpoint import Checkpoint
from publius.model.config import ModelConfig
from publius.model.transfer import ExportType, export_checkpoint, import_model, import_to, parse_size
from publius.pipeline.store import disk_errors
from publius.release.locate import locate
from publius.training.plan import tier_shape

__all__ = ["chat", "engine", "export", "import_"]

bench_app = typer.Typer(help="Time what this machine does, beside what it could.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")


@app.command()
def chat(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run, run/stage or checkpoint folder; with --url, an id.")
    ],
    message: Annotated[str | None, typer.Option("--message", "-m", help="Say this, print the reply.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system text.")] = None,
    thinking: Annotated[bool, typer.Option(help="Let the model think before it replies.")] = True,
    tools: Annotated[
        bool, typer.Option("--tools", help="Offer the calculator and the almanac (models of a Pocket run).")
    ] = False,
    url: Annotated[
        str | None, typer.Option("--url", help="A Messages endpoint; its key is $PUBLIUS_API_KEY.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    home: Home = Path(),
) -> None:
    """Chat with a model in the terminal; shows thinking and tool calls as they come."""
    if url is not None:
        _chat_elsewhere(url, model, system=system, thinking=thinking, message=message, tools=tools)
        return
    found = locate(model, home)
    offered = World(found.world).tools() if tools and found.world is not None else None
    terminal.chat(
        found.checkpoint, system=system, thinking=thinking, message=message, tools=offered,
        tool_specs=() if offered is None else TOOLS, device=str(pick_device(device)),
    )  # fmt: skip


def _chat_elsewhere(
    url: str, model: str, *, system: str | None, thinking: bool, message: str | None, tools: bool
) -> None:
    if tools:
        raise UserError(
            "the tools are those of a run's world, and an endpoint has none",
            where="--tools",
            fix="chat with the run itself: publius chat RUN --tools",
        )
    try:
        config = RemoteConfig(dialect="anthropic", url=url, model=model)
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"], where="--url", fix="like http://127.0.0.1:8080") from None
    trusted = os.environ.get("SSL_CERT_FILE")
    with RemoteAssistant(config, os.environ.get("PUBLIUS_API_KEY", ""), verify=trusted or True) as assistant:
        terminal.converse(terminal.Chat(assistant, system=system, thinking=thinking), message=message)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder in Hugging Face layout.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Write it here as one of our checkpoints.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a Llama, Mistral, Qwen2, Qwen3 or SmolLM checkpoint, and make it one to start from."""
    with disk_errors(str(to or folder)):
        found = import_model(folder) if to is None else import_to(folder, to)
    config = found.model.config
    if as_json:
        facts = {"family": config.written_family, "parameters": config.parameters(), "added": found.added}
        print_json(facts | {"rows_added": found.new_rows, "written": None if to is None else str(to)})
        return
    print(f"{config.written_family}: {config.parameters():,} weights, every tensor read and finite")
    if found.added:
        print(f"special tokens added ({found.new_rows} new rows): {' '.join(found.added)}")
        print("the model has never seen these tokens: fine-tune it before chatting with it")
    print(f"written to {to}" if to is not None else "nothing was written: give --to FOLDER to convert it")


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, run/stage, or a checkpoint folder.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder that does not exist yet.")],
    dtype: Annotated[ExportType, typer.Option("--dtype", help="float32 or bfloat16.")] = "float32",
    max_shard_size: Annotated[str, typer.Option("--max-shard-size", help="Largest file of weights.")] = "5GB",
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a model for transformers, vLLM and llama.cpp's converter: safetensors, tokenizer, template."""
    shard_bytes = parse_size(max_shard_size)
    source = Path(model) if (Path(model) / "config.json").is_file() else locate(model, home).checkpoint
    with disk_errors(str(to)):
        done = export_checkpoint(source, to, dtype=dtype, shard_bytes=shard_bytes)
    if as_json:
        print_json({**done._asdict(), "written": str(to)})
    else:
        print(f"{done.architecture}: {done.parameters:,} weights in {len(done.files)} files, {dtype}: {to}")


@bench_app.command()
def engine(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A run, run/stage, or a checkpoint folder.")
    ] = None,
    tier: Annotated[
        str | None, typer.Option("--tier", help="Random weights instead: haiku, sonnet, opus.")
    ] = None,
    scale: Annotated[str, typer.Option("--scale", help="pocket, laptop, one_gpu, cluster.")] = "laptop",
    prompt: Annotated[int, typer.Option("--prompt", min=1, help="Tokens of each prompt.")] = 128,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="New tokens of each row.")] = 64,
    batch: Annotated[list[int] | None, typer.Option("--batch", min=1, help="Rows at once.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    home: Home = Path(),
    as_json: AsJson = False,
) -> None:
    """Time reading and writing with the engine, beside the machine's measured memory and arithmetic."""
    if (model is None) == (tier is None):
        raise UserError("one thing to time", where="publius bench engine", fix="name a MODEL or a --tier")
    if tier is not None:
        source = tier_shape(tier, scale, None)
        _fits(source, pick_device(device))
    else:
        folder = Path(str(model))
        source = Checkpoint(
            folder if (folder / "config.json").is_file() else locate(str(model), home).checkpoint
        )
    found = bench_engine(source, pick_device(device), prompt=prompt, tokens=tokens, rows=batch or [1, 8, 64])
    if as_json:
        print_json(found.as_dict())
    else:
        print(found.text())


def _fits(shape: ModelConfig, device: torch.device) -> None:
    """Weights that are made up are soon too many: the system would end the process without a word."""
    count = shape.parameters() / 1e9
    needed, free = 4 * shape.parameters(), min(free_memory(device), free_memory(torch.device("cpu")))
    if needed > free:
        raise UserError(
            f"{count:,.1f}B weights take {needed / 1e9:,.0f} GB, and {free / 1e9:,.0f} GB are free",
            where="publius bench engine", fix="give a smaller --tier or --scale",
        )  # fmt: skip
