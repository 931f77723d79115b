"""`config.json` in Hugging Face's words, to and from `ModelConfig`, for five families.

Reading follows transformers 5 (`configuration_*.py`, `modeling_rope_utils.py`), defaults included: a key
that is absent means what that family's class means by it. A key that is neither honoured here nor known to
leave the numbers alone is refused by name: ignoring it would load another model than was saved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import ValidationError

from publius.core.errors import UserError
from publius.model.config import Family, ModelConfig
from publius.model.rope import DynamicRope, LinearRope, Llama3Rope, PlainRope, RopeScaling, YarnRope

__all__ = ["class_name", "config_from_hf", "config_to_hf"]


class _Defaults(NamedTuple):
    """What a family's config class assumes for an absent key."""

    class_name: str
    max_position: int
    tie: bool = False
    kv_heads: int | None = None
    head_dim: int | None = None
    theta: float = 10_000.0
    window: int | None = None


_FAMILIES: dict[str, _Defaults] = {
    "llama": _Defaults("Llama", 2048),
    "mistral": _Defaults("Mistral", 4096 * 32, kv_heads=8, window=4096),
    "qwen2": _Defaults("Qwen2", 32768, kv_heads=32, window=4096),
    "qwen3": _Defaults("Qwen3", 32768, kv_heads=32, head_dim=128, window=4096),
    "smollm3": _Defaults("SmolLM3", 32768, tie=True, kv_heads=4, theta=2_000_000.0),
}
_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_SHAPE = frozenset(_NEEDED) | {
    "model_type", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps",
    "rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings", "layer_types",
}  # fmt: skip
_QWEN = frozenset({"use_sliding_window", "sliding_window", "max_window_layers"})
_OWN: dict[str, frozenset[str]] = {
    "llama": frozenset({"attention_bias", "mlp_bias"}),
    "mistral": frozenset({"sliding_window"}),
    "qwen2": _QWEN,
    "qwen3": _QWEN | {"attention_bias"},
    "smollm3": frozenset(
        {"attention_bias", "mlp_bias", "use_sliding_window", "sliding_window", "no_rope_layers",
         "no_rope_layer_interval"}
    ),
}  # fmt: skip
"""Keys each family's class reads beyond the shape."""
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_dropout": (0, None),
    "hidden_dropout": (0, None),
    "resid_pdrop": (0, None),
    "embd_pdrop": (0, None),
    "partial_rotary_factor": (1, None),
    "rope_interleaved": (False, None),
    "use_mrope": (False, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "tie_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
}
"""Keys that would change the numbers; only these values do not."""
_SWITCHES = ("attention_bias", "mlp_bias", "use_sliding_window", "tie_word_embeddings")
_HARMLESS = frozenset(
    {
        # provenance and loading
        "architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "_commit_hash",
        "_attn_implementation", "_attn_implementation_autoset", "transformers.js_config", "is_llama_config",
        "unsloth_fixed", "unsloth_version", "torchscript", "use_bfloat16", "tokenizer_class", "name_or_path",
        # how weights were first drawn, how a step is cut up: not what it computes
        "initializer_range", "use_cache", "pretraining_tp", "chunk_size_feed_forward", "return_dict",
        "output_attentions", "output_hidden_states", "gradient_checkpointing", "is_decoder",
        # ids: the tokenizer says them
        "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
        "unk_token_id", "decoder_start_token_id", "prefix",
        # heads of classification
        "num_labels", "id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params",
        # sampling, from before generation_config.json
        "do_sample", "temperature", "top_k", "top_p", "typical_p", "max_length", "min_length", "num_beams",
        "num_beam_groups", "diversity_penalty", "repetition_penalty", "length_penalty", "early_stopping",
        "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
        "output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id",
        "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
        "begin_suppress_tokens", "tf_legacy_loss",
    }
)  # fmt: skip
_FIX = "use a checkpoint of Llama, Mistral, Qwen2, Qwen3 or SmolLM in Hugging Face layout"


def class_name(family: Family, task: str = "ForCausalLM") -> str:
    """The architecture as transformers names it, e.g. `Qwen3ForCausalLM`."""
    return _FAMILIES[family].class_name + task


def config_to_hf(config: ModelConfig, **extra: Any) -> dict[str, Any]:
    """The `config.json` that transformers, vLLM and llama.cpp's converter read.

    Rotary scaling is spelled `rope_theta` and `rope_scaling`, which old and new readers know.

    Args:
        config: the model.
        extra: further keys (token ids, `architectures`, `torch_dtype`).
    """
    family = config.written_family
    windowed = [config.window(layer) is not None for layer in range(config.layers)]
    raw: dict[str, Any] = {
        "architectures": [class_name(family)],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "torch_dtype": "float32",
    }
    if config.rope.kind != "default":
        raw["rope_scaling"] = _rope_to_hf(config.rope)
    own: dict[str, Any] = {
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "sliding_window": config.sliding_window,
        "use_sliding_window": any(windowed),
        "max_window_layers": windowed.index(True) if any(windowed) else config.layers,
        "no_rope_layers": [int(layer not in config.no_rope_layers) for layer in range(config.layers)],
    }
    raw |= {key: value for key, value in own.items() if key in _OWN[family]}
    if "use_sliding_window" in _OWN[family]:
        raw["layer_types"] = ["sliding_attention" if here else "full_attention" for here in windowed]
    return raw | extra


def config_from_hf(raw: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """Read a `config.json` of one of the five families.

    Raises:
        UserError: naming the key that is missing, unknown, or has a value this model cannot honour.
    """
    try:
        return _read(raw, where)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        # a list for a number, and the like
        what = f"the model's config is not usable: a value is of the wrong kind ({error})"
        raise UserError(what, where=where, fix=_FIX) from error


def _read(raw: dict[str, Any], where: str) -> ModelConfig:
    for name in _NEEDED:
        if raw.get(name) is None:
            raise UserError(f"the model's config has no {name!r}", where=where, fix=_FIX)
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise UserError(f"model_type {family!r} is not supported", where=where, fix=_FIX)
    _refuse_unknown(raw, family, where)
    usual, heads, layers = _FAMILIES[family], int(raw["num_attention_heads"]), int(raw["num_hidden_layers"])
    max_position = raw.get("max_position_embeddings", usual.max_position)
    rope, theta = _rope_from_hf(raw, max_position, usual.theta, where)
    no_rope = _no_rope_layers(raw, family, layers, where)
    window, window_layers = _windows(raw, family, layers, no_rope, where)
    bias = bool(raw.get("attention_bias", False))
    fields = {
        "vocab_size": raw["vocab_size"],
        "hidden_size": raw["hidden_size"],
        "layers": layers,
        "heads": heads,
        "kv_heads": raw.get("num_key_value_heads", usual.kv_heads) or heads,
        "head_dim": raw.get("head_dim", usual.head_dim) or raw["hidden_size"] // heads,
        "intermediate_size": raw["intermediate_size"],
        "max_position": max_position,
        "rope_theta": theta,
        "norm_eps": raw.get("rms_norm_eps", 1e-6),
        "tie_embeddings": raw.get("tie_word_embeddings", usual.tie),
        "rope": rope,
        "no_rope_layers": no_rope,
        "sliding_window": window,
        "window_layers": window_layers,
        "qkv_bias": bias or family == "qwen2",
        "o_bias": bias,
        "mlp_bias": bool(raw.get("mlp_bias", False)),
        "qk_norm": family == "qwen3",
    }
    try:
        config = ModelConfig.model_validate(fields)
        if config.written_family != family:
            config = ModelConfig.model_validate(fields | {"family": family})
        return config
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        what = f"the model's config is not usable: {at + ': ' if at else ''}{first['msg']}"
        raise UserError(what, where=where, fix=_FIX) from None


def _refuse_unknown(raw: dict[str, Any], family: str, where: str) -> None:
    known = _SHAPE | _OWN[family] | _HARMLESS
    elsewhere = frozenset[str]().union(*_OWN.values())
    for key, value in raw.items():
        if key in _SWITCHES and not isinstance(value, bool | None):  # "false" would count as true
            raise UserError(f"{key}={value!r} is neither true nor false", where=where, fix=_FIX)
        if key in _MUST_BE:
            if value not in _MUST_BE[key]:
                raise UserError(f"{key}={value!r} is not supported", where=where, fix=_FIX)
        elif key == "max_window_layers" or key in known:
            continue  # families other than Qwen never read max_window_layers
        elif key in elsewhere:
            if value:
                raise UserError(
                    f"{key}={value!r} is not supported in a {family} model", where=where, fix=_FIX
                )
        else:
            raise UserError(
                f"the model's config has the key {key!r} (value {value!r}), which is not supported",
                where=where,
                fix=f"{_FIX}; remove the key only if you know that it changes nothing",
            )


def _no_rope_layers(raw: dict[str, Any], family: str, layers: int, where: str) -> tuple[int, ...]:
    """SmolLM3 lists 1 for a layer with rotary positions; without a list every fourth has none."""
    if family != "smollm3":
        return ()
    listed = raw.get("no_rope_layers")
    if listed is None:
        interval = raw.get("no_rope_layer_interval", 4)
        return tuple(layer for layer in range(layers) if (layer + 1) % interval == 0)
    if len(listed) < layers:
        raise UserError(
            f"no_rope_layers has {len(listed)} entries for {layers} layers", where=where, fix=_FIX
        )
    return tuple(layer for layer in range(layers) if not listed[layer])


def _windows(
    raw: dict[str, Any], family: str, layers: int, no_rope: tuple[int, ...], where: str
) -> tuple[int | None, tuple[int, ...] | None]:
    """The window and the layers that have it (None: all), as each family decides them."""
    usual = _FAMILIES[family].window
    window = raw.get("sliding_window", usual) if "sliding_window" in _OWN[family] else None
    if "use_sliding_window" in _OWN[family] and not raw.get("use_sliding_window", False):
        window = None
    if window is None:
        chosen: tuple[int, ...] = ()
    elif family == "mistral":
        chosen = tuple(range(layers))
    elif family == "smollm3":
        chosen = no_rope
    else:
        chosen = tuple(range(min(raw.get("max_window_layers", 28), layers), layers))
    types = raw.get("layer_types")
    if types is not None:
        if len(types) != layers or set(types) - {"full_attention", "sliding_attention"}:
            raise UserError(f"layer_types {types!r} is not supported", where=where, fix=_FIX)
        listed = tuple(layer for layer, kind in enumerate(types) if kind == "sliding_attention")
        if listed != chosen and (window is None or family in ("llama", "mistral")):
            raise UserError(
                f"layer_types {types!r} does not fit the model's sliding_window ({window})",
                where=where,
                fix=_FIX,
            )
        chosen = listed
    if window is None or not chosen:
        return None, None
    return window, None if chosen == tuple(range(layers)) else chosen


_SAME = {"factor": "factor"}
_TRAINED = {"original_max_position_embeddings": "original_max_position"}
_YARN = ("attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate")
_ROPE_KEYS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": _SAME,
    "dynamic": _SAME,
    "yarn": _SAME | _TRAINED | {name: name for name in _YARN},
    "llama3": _SAME | _TRAINED | {name: name for name in ("low_freq_factor", "high_freq_factor")},
}
"""For each kind: key in `rope_scaling` -> our field."""
_ROPE_CLASSES = {
    "default": PlainRope,
    "linear": LinearRope,
    "dynamic": DynamicRope,
    "yarn": YarnRope,
    "llama3": Llama3Rope,
}


def _rope_from_hf(
    raw: dict[str, Any], max_position: int, usual_theta: float, where: str
) -> tuple[RopeScaling, float]:
    """The variant and the base, from `rope_scaling` + `rope_theta` or from `rope_parameters`."""
    given = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in _ROPE_CLASSES:
        raise UserError(f"rotary scaling of type {kind!r} is not supported", where=where, fix=_FIX)
    if given.get("partial_rotary_factor", 1.0) not in (1.0, None):
        raise UserError("partial_rotary_factor other than 1 is not supported", where=where, fix=_FIX)
    names = _ROPE_KEYS[kind]
    for key, value in given.items():
        if (
            key in ("rope_type", "type", "rope_theta", "partial_rotary_factor")
            or key in names
            or value is None
        ):
            continue
        raise UserError(
            f"rope_scaling.{key}={value!r} is not supported with type {kind!r}", where=where, fix=_FIX
        )
    fields = {ours: given[key] for key, ours in names.items() if given.get(key) is not None}
    if kind in ("yarn", "llama3"):
        fields.setdefault("original_max_position", max_position)
    if kind == "yarn":
        fields.setdefault("factor", max_position / fields["original_max_position"])
        for name in ("beta_fast", "beta_slow"):  # transformers takes 0 for absent
            if fields.get(name) == 0:
                del fields[name]
    theta = given.get("rope_theta") or raw.get("rope_theta") or usual_theta
    try:
        return _ROPE_CLASSES[kind].model_validate(fields), theta
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        raise UserError(f"rope_scaling is not usable: {at}: {first['msg']}", where=where, fix=_FIX) from None


def _rope_to_hf(rope: RopeScaling) -> dict[str, Any]:
    names = _ROPE_KEYS[rope.kind]
    values = {key: getattr(rope, ours) for key, ours in names.items()}
    return {"rope_type": rope.kind} | {key: value for key, value in values.items() if value is not None}
