"""llama.cpp with our weights: writes them as GGUF, runs `llama-bench` and `llama-batched-bench`.

Imported only in children that need it: it wants the `gguf` package. The file has llama.cpp's architecture
"llama", a tied head (so no output matrix), no tokenizer (the programs make up their tokens), and the rows of
q and k in its order of rotary pairs, as its own converter writes them.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from engines import EngineCase
from numpy.typing import NDArray

from publius.core.errors import UserError
from publius.model import ModelConfig
from publius.model.fused import split_weights
from publius.model.transformer import Transformer

__all__ = ["decode", "write_gguf"]

TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def name_of(ours: str) -> str:
    """The tensor's name there, from Hugging Face's."""
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if ours in top:
        return top[ours]
    _, _, layer, rest = ours.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def turned(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q or k with the two of a rotary pair next to each other: ours pairs the halves of a head."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, shape: ModelConfig, kind: str) -> None:
    """Write fresh weights (seed 0) of `shape`: matrices as `kind`, norms in fp32.

    Raises:
        UserError: for a shape whose file would not be a plain Llama.
    """
    if shape.written_family != "llama" or shape.rope.kind != "default" or not shape.tie_embeddings:
        raise UserError("only plain Llama shapes with a tied head are written", where="write_gguf")
    wanted = gguf.GGMLQuantizationType[TYPES[kind]]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("benchmark")
    writer.add_vocab_size(shape.vocab_size)
    writer.add_context_length(shape.max_position)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_tokenizer_model("no_vocab")
    for ours, tensor in split_weights(Transformer(shape, seed=0)).items():
        if ours == "lm_head.weight":
            continue
        weight = tensor.detach().to(torch.float32).numpy()
        if "q_proj" in ours or "k_proj" in ours:
            weight = turned(weight, shape.heads if "q_proj" in ours else shape.kv_heads)
        as_type = wanted if weight.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name_of(ours), gguf.quants.quantize(weight, as_type), raw_dtype=as_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def decode(case: EngineCase, times: int) -> dict[str, Any]:
    """Tokens/s of decoding after prompts of the case's length, measured by llama.cpp, `times` times.

    One row: `llama-bench`, at that depth. More: `llama-batched-bench`, whose TG is all rows together. Neither
    samples; both leave the reading of the prompt out. Cache and attention are as it has them by default.
    """
    threads, folder = str(case.threads), Path(case.programs)
    if case.rows == 1:
        told = _run(
            folder / "llama-bench", "-m", case.path, "-p", "0", "-n", str(case.new), "-d", str(case.prompt),
            "-t", threads, "-r", str(times), "-o", "json",
        )  # fmt: skip
        (line,) = json.loads(told)
        return {"windows": line["samples_ts"], "peak_bytes": 0, "build": line["build_commit"]}
    room = case.rows * (case.prompt + case.new)
    told = _run(
        folder / "llama-batched-bench", "-m", case.path, "-c", str(room), "-npp", str(case.prompt),
        "-ntg", str(case.new), "-npl", ",".join([str(case.rows)] * times), "-t", threads, "-tb", threads,
        "--output-format", "jsonl",
    )  # fmt: skip
    lines = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    if not lines:  # one less than asked for has been seen: it does not wait for its log at the end
        raise RuntimeError("llama-batched-bench gave no result")
    return {"windows": [line["speed_tg"] for line in lines], "peak_bytes": 0}


def _run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout
