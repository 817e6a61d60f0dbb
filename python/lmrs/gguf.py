"""GGUF in the words of transformers: the config.json its metadata amounts to, and the names its tensors have there.

llama.cpp renames tensors, and changes two kinds of them: for the architecture ``llama`` the rows of q and k are
interleaved, because its rotation pairs neighbours where transformers pairs halves; for ``gpt2`` the projections are
transposed. :func:`translate` says which, so that a family sees one layout only.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmrs.errors import ConfigError

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Translation:
    """``names``: transformers' name of a tensor to GGUF's; ``interleaved``: its heads, if its rows are interleaved."""

    config: dict[str, Any]
    names: dict[str, str]
    interleaved: dict[str, int]
    transposed: frozenset[str]


_LLAMA = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.attn_norm": "model.layers.{}.input_layernorm",
    "blk.attn_q": "model.layers.{}.self_attn.q_proj",
    "blk.attn_k": "model.layers.{}.self_attn.k_proj",
    "blk.attn_v": "model.layers.{}.self_attn.v_proj",
    "blk.attn_output": "model.layers.{}.self_attn.o_proj",
    "blk.attn_q_norm": "model.layers.{}.self_attn.q_norm",
    "blk.attn_k_norm": "model.layers.{}.self_attn.k_norm",
    "blk.ffn_norm": "model.layers.{}.post_attention_layernorm",
    "blk.ffn_gate": "model.layers.{}.mlp.gate_proj",
    "blk.ffn_up": "model.layers.{}.mlp.up_proj",
    "blk.ffn_down": "model.layers.{}.mlp.down_proj",
}

_GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk.attn_norm": "transformer.h.{}.ln_1",
    "blk.attn_qkv": "transformer.h.{}.attn.c_attn",
    "blk.attn_output": "transformer.h.{}.attn.c_proj",
    "blk.ffn_norm": "transformer.h.{}.ln_2",
    "blk.ffn_up": "transformer.h.{}.mlp.c_fc",
    "blk.ffn_down": "transformer.h.{}.mlp.c_proj",
}

_BERT = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "blk.attn_q": "encoder.layer.{}.attention.self.query",
    "blk.attn_k": "encoder.layer.{}.attention.self.key",
    "blk.attn_v": "encoder.layer.{}.attention.self.value",
    "blk.attn_output": "encoder.layer.{}.attention.output.dense",
    "blk.attn_output_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "blk.ffn_up": "encoder.layer.{}.intermediate.dense",
    "blk.ffn_down": "encoder.layer.{}.output.dense",
    "blk.layer_output_norm": "encoder.layer.{}.output.LayerNorm",
}

_T5 = {"token_embd": "shared", "output": "lm_head"}
for _short, _stack, _last in (("enc", "encoder", 1), ("dec", "decoder", 2)):
    _T5[f"{_short}.output_norm"] = f"{_stack}.final_layer_norm"
    _T5[f"{_short}.blk.attn_norm"] = f"{_stack}.block.{{}}.layer.0.layer_norm"
    _T5[f"{_short}.blk.attn_rel_b"] = f"{_stack}.block.{{}}.layer.0.SelfAttention.relative_attention_bias"
    _T5[f"{_short}.blk.ffn_norm"] = f"{_stack}.block.{{}}.layer.{_last}.layer_norm"
    _T5[f"{_short}.blk.ffn_gate"] = f"{_stack}.block.{{}}.layer.{_last}.DenseReluDense.wi_0"
    _T5[f"{_short}.blk.ffn_up"] = f"{_stack}.block.{{}}.layer.{_last}.DenseReluDense.wi"
    _T5[f"{_short}.blk.ffn_down"] = f"{_stack}.block.{{}}.layer.{_last}.DenseReluDense.wo"
    for _part in "qkvo":
        _T5[f"{_short}.blk.attn_{_part}"] = f"{_stack}.block.{{}}.layer.0.SelfAttention.{_part}"
for _part in "qkvo":
    _T5[f"dec.blk.cross_attn_{_part}"] = f"decoder.block.{{}}.layer.1.EncDecAttention.{_part}"
_T5["dec.blk.cross_attn_norm"] = "decoder.block.{}.layer.1.layer_norm"


class _Metadata:
    """The keys of one architecture. Each is asked for by name; what nobody asked for may change the model."""

    # What says nothing about the computation, or nothing that the tensors do not say.
    _SILENT = frozenset({"vocab_size", "tensor_data_layout", "pooling_type"})

    def __init__(self, architecture: str, pairs: Mapping[str, Any]) -> None:
        self.architecture = architecture
        start = f"{architecture}."
        self._pairs = {key.removeprefix(start): value for key, value in pairs.items() if key.startswith(start)}
        self._asked: set[str] = set(self._SILENT)

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number above zero; ConfigError if it is absent without a default."""
        value = self._read(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{self.architecture}.{key} is {value!r}, expected a whole number above 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number; ConfigError if it is absent without a default."""
        value = self._read(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"{self.architecture}.{key} is {value!r}, expected a number")
        return float(value)

    def expect(self, key: str, value: Any) -> None:
        """ConfigError if the key is there and says something else."""
        found = self._read(key, value)
        if found != value:
            raise ConfigError(f"{self.architecture}.{key} is {found!r}, expected {value!r}")

    def text(self, key: str, default: str) -> str:
        """A string."""
        return str(self._read(key, default))

    def _read(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        value = self._pairs.get(key, default)
        if value is None:
            raise ConfigError(f"{self.architecture}.{key} is missing from the GGUF metadata")
        return value

    def refuse_others(self) -> None:
        """ConfigError for a key that was not asked for and is not zero, false or empty."""
        for key in sorted(self._pairs.keys() - self._asked):
            if self._pairs[key]:
                raise ConfigError(f"{self.architecture}.{key} is {self._pairs[key]!r}, which lmrs does not know")


def _rope(read: _Metadata) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": read.number("rope.freq_base", 10000.0)}
    kind = read.text("rope.scaling.type", "none")
    if kind == "none":
        return rope
    rope |= {"rope_type": kind, "factor": read.number("rope.scaling.factor")}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = read.size("rope.scaling.original_context_length")
        # transformers and llama.cpp give the attention factor from `factor` alone unless this says otherwise.
        read.expect("rope.scaling.attn_factor", 1.0)
    elif kind != "linear":
        raise ConfigError(f"{read.architecture}.rope.scaling.type is {kind!r}, expected none, linear or yarn")
    return rope


def _llama(read: _Metadata, shapes: Shapes) -> dict[str, Any]:
    if "rope_freqs.weight" in shapes:
        raise ConfigError("rope_freqs.weight scales the rotation by frequency, which lmrs does not read from GGUF")
    width, heads = read.size("embedding_length"), read.size("attention.head_count")
    head_dim = read.size("attention.key_length", width // heads)
    read.expect("attention.value_length", head_dim)
    read.expect("rope.dimension_count", head_dim)
    config: dict[str, Any] = {
        "vocab_size": _rows(shapes, "token_embd.weight"),
        "hidden_size": width,
        "intermediate_size": read.size("feed_forward_length"),
        "num_hidden_layers": read.size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": read.size("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": read.size("context_length"),
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(read),
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    if read.architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in shapes
        config["mlp_bias"] = "blk.0.ffn_up.bias" in shapes
    return config


def _gpt2(read: _Metadata, shapes: Shapes) -> dict[str, Any]:
    return {
        "vocab_size": _rows(shapes, "token_embd.weight"),
        "n_embd": read.size("embedding_length"),
        "n_layer": read.size("block_count"),
        "n_head": read.size("attention.head_count"),
        "n_inner": read.size("feed_forward_length"),
        "n_positions": read.size("context_length"),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": read.number("attention.layer_norm_epsilon"),
        "tie_word_embeddings": "output.weight" not in shapes,
    }


def _bert(read: _Metadata, shapes: Shapes) -> dict[str, Any]:
    read.expect("attention.causal", False)
    return {
        "vocab_size": _rows(shapes, "token_embd.weight"),
        "hidden_size": read.size("embedding_length"),
        "intermediate_size": read.size("feed_forward_length"),
        "num_hidden_layers": read.size("block_count"),
        "num_attention_heads": read.size("attention.head_count"),
        "max_position_embeddings": read.size("context_length"),
        "type_vocab_size": _rows(shapes, "token_types.weight"),
        "hidden_act": "gelu",
        "layer_norm_eps": read.number("attention.layer_norm_epsilon"),
    }


def _t5(read: _Metadata, shapes: Shapes) -> dict[str, Any]:
    # The metadata does not say which T5 it is; the tensors do. Only the original has no head of its own and scales
    # the states before it; v1.1 and its kin have a gate.
    tied, gated = "output.weight" not in shapes, "enc.blk.0.ffn_gate.weight" in shapes
    heads = read.size("attention.head_count")
    read.expect("attention.head_count_kv", heads)
    key_length = read.size("attention.key_length")
    read.expect("attention.value_length", key_length)
    read.size("context_length", 512)
    eps = read.number("attention.layer_norm_epsilon", 1e-6)
    layers = read.size("block_count")
    return {
        "vocab_size": _rows(shapes, "token_embd.weight"),
        "d_model": read.size("embedding_length"),
        "d_ff": read.size("feed_forward_length"),
        "d_kv": key_length,
        "num_layers": layers,
        "num_decoder_layers": read.size("decoder_block_count", layers),
        "num_heads": heads,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "relative_attention_num_buckets": read.size("attention.relative_buckets_count"),
        "layer_norm_epsilon": read.number("attention.layer_norm_rms_epsilon", eps),
        "decoder_start_token_id": int(read.number("decoder_start_token_id", 0)),
        "is_encoder_decoder": True,
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": tied,
    }


@dataclass(frozen=True, kw_only=True)
class _Architecture:
    config: Callable[[_Metadata, Shapes], dict[str, Any]]
    names: Mapping[str, str]
    transformers_class: str


_ARCHITECTURES = {
    "llama": _Architecture(config=_llama, names=_LLAMA, transformers_class="LlamaForCausalLM"),
    "qwen2": _Architecture(config=_llama, names=_LLAMA, transformers_class="Qwen2ForCausalLM"),
    "qwen3": _Architecture(config=_llama, names=_LLAMA, transformers_class="Qwen3ForCausalLM"),
    "gpt2": _Architecture(config=_gpt2, names=_GPT2, transformers_class="GPT2LMHeadModel"),
    "bert": _Architecture(config=_bert, names=_BERT, transformers_class="BertModel"),
    "t5": _Architecture(config=_t5, names=_T5, transformers_class="T5ForConditionalGeneration"),
}

_SPECIAL = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}
_NAME = re.compile(
    r"(?P<stem>(?:(?:enc|dec)\.)?(?:blk\.)?)(?:(?P<block>\d+)\.)?(?P<part>[a-z_]+)\.(?P<kind>weight|bias)"
)


def translate(metadata: Mapping[str, Any], shapes: Shapes) -> Translation:
    """What transformers would have in config.json and call the tensors, from a GGUF file's metadata and shapes.

    Raises ConfigError for an architecture, a tensor or a setting that is not known: to leave one out would be to run
    another model than the file describes.
    """
    name = metadata.get("general.architecture")
    architecture = _ARCHITECTURES.get(name) if isinstance(name, str) else None
    if architecture is None:
        raise ConfigError(f"general.architecture is {name!r}, expected one of {', '.join(_ARCHITECTURES)}")
    read = _Metadata(str(name), metadata)
    config: dict[str, Any] = {"model_type": name, "architectures": [architecture.transformers_class]}
    config |= architecture.config(read, shapes)
    read.refuse_others()
    for short, field in _SPECIAL.items():
        if (token := metadata.get(f"tokenizer.ggml.{short}_token_id")) is not None:
            config[field] = token

    gated = config.get("feed_forward_proj") == "gated-gelu"
    names, interleaved, transposed = {}, {}, set()
    for ours in shapes:
        theirs = _named(architecture.names, ours)
        if gated and theirs.endswith("DenseReluDense.wi.weight"):
            theirs = theirs.replace(".wi.", ".wi_1.")
        names[theirs] = ours
        if name == "llama" and ".q_proj." in theirs:
            interleaved[theirs] = config["num_attention_heads"]
        elif name == "llama" and ".k_proj." in theirs:
            interleaved[theirs] = config["num_key_value_heads"]
        elif name == "gpt2" and ".c_" in theirs and theirs.endswith("weight"):
            transposed.add(theirs)
    return Translation(config=config, names=names, interleaved=interleaved, transposed=frozenset(transposed))


def _named(table: Mapping[str, str], name: str) -> str:
    """Transformers' name for the tensor that GGUF calls ``name``."""
    if (found := _NAME.fullmatch(name)) is None or (to := table.get(found["stem"] + found["part"])) is None:
        raise ConfigError(f"tensor {name!r} is not part of any model of this architecture that lmrs knows")
    if ("{}" in to) != (found["block"] is not None):
        raise ConfigError(f"tensor {name!r} is not part of any model of this architecture that lmrs knows")
    return f"{to.format(found['block'])}.{found['kind']}"


def _rows(shapes: Shapes, name: str) -> int:
    if name not in shapes:
        raise ConfigError(f"tensor {name!r} is missing from the GGUF file")
    return shapes[name][0]
