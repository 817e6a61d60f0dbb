"""ModernBERT (Warner et al. 2024): an encoder with rotary positions, pre-norms without bias, GeGLU and local attention.

Most layers see ``local_attention // 2`` tokens to either side, with rotary frequencies of their own. The first
layer has no norm before its attention, since the embeddings are normed.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lmrs import ops
from lmrs.batch import Batch
from lmrs.errors import ConfigError
from lmrs.models.config import MOST_LAYERS, Fields, written_activation
from lmrs.models.model import LanguageModel
from lmrs.models.source import Source, Sources, weight
from lmrs.nn.attention import Heads, RotaryAttention
from lmrs.nn.feedforward import GatedFeedForward
from lmrs.nn.layers import Embedding, Head, LayerNorm, Linear
from lmrs.nn.module import Module
from lmrs.nn.rope import Rope
from lmrs.ops import Activation, Value

IGNORED = re.compile(r"(?!)")
_PAD = 50283
_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
_FULL, _LOCAL = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class Config:
    """``local[i]``: layer i sees ``reach`` tokens to either side; ``rope`` and ``local_rope`` are of the two kinds."""

    family: ClassVar[str] = "modernbert"
    vocabulary: int
    width: int
    layers: int
    heads: int
    context: int
    inner: int
    local: tuple[bool, ...]
    reach: int
    rope: Mapping[str, Any] = field(default_factory=lambda: {"rope_type": "default", "rope_theta": 160000.0})
    local_rope: Mapping[str, Any] = field(default_factory=lambda: {"rope_type": "default", "rope_theta": 10000.0})
    kind: Activation = "gelu"
    head_kind: Activation = "gelu"
    eps: float = 1e-5
    tied: bool = True
    mlm: bool = True

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: Collection[str] | None = None) -> "Config":
        """From config.json; whether there is a head is read off the tensor ``names`` of the file if given."""
        read = Fields(fields)
        for name in ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"):
            read.expect(name, False)
        read.expect("decoder_bias", True)
        width, heads = read.size("hidden_size"), read.size("num_attention_heads")
        layers = read.size("num_hidden_layers", most=MOST_LAYERS)
        if width % heads or (width // heads) % 2:
            raise ConfigError(f"hidden_size is {width}, expected an even multiple of num_attention_heads = {heads}")
        every = read.size("global_attn_every_n_layers", 3)
        kinds = read.get("layer_types") or [_LOCAL if layer % every else _FULL for layer in range(layers)]
        if len(kinds) != layers or not {_FULL, _LOCAL}.issuperset(kinds):
            raise ConfigError(f"layer_types is {kinds!r}, expected {layers} of {_FULL} or {_LOCAL}")
        ropes = read.get("rope_parameters") or {
            _FULL: {"rope_type": "default", "rope_theta": read.number("global_rope_theta", 160000.0)},
            _LOCAL: {"rope_type": "default", "rope_theta": read.number("local_rope_theta", 10000.0)},
        }
        if not isinstance(ropes, Mapping) or not all(isinstance(ropes.get(kind), Mapping) for kind in set(kinds)):
            raise ConfigError(f"rope_parameters is {ropes!r}, expected an object for each of layer_types")
        return cls(
            vocabulary=read.size("vocab_size"),
            width=width,
            layers=layers,
            heads=heads,
            context=read.size("max_position_embeddings"),
            inner=read.size("intermediate_size"),
            local=tuple(kind == _LOCAL for kind in kinds),
            reach=read.size("local_attention", 128) // 2,
            rope=dict(ropes.get(_FULL) or {}),
            local_rope=dict(ropes.get(_LOCAL) or {}),
            kind=read.activation("hidden_activation", "gelu"),
            head_kind=read.activation("classifier_activation", "gelu"),
            eps=read.number("norm_eps", 1e-5),
            tied=read.flag("tie_word_embeddings", True) if names is None else "decoder.weight" not in names,
            mlm=names is None or "head.dense.weight" in names,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields transformers reads."""
        return {
            "model_type": self.family,
            "architectures": ["ModernBertForMaskedLM" if self.mlm else "ModernBertModel"],
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.context,
            "intermediate_size": self.inner,
            "layer_types": [_LOCAL if local else _FULL for local in self.local],
            "local_attention": 2 * self.reach,
            "rope_parameters": {_FULL: dict(self.rope), _LOCAL: dict(self.local_rope)},
            "hidden_activation": written_activation(self.kind),
            "classifier_activation": written_activation(self.head_kind),
            "norm_eps": self.eps,
            "tie_word_embeddings": self.tied,
            # The ids that transformers supposes where a config is silent are those of the published vocabulary.
            **({} if self.vocabulary > _PAD else dict.fromkeys(_SPECIAL)),
        }


class Block(Module):
    """``x + attn(norm1(x))``, then ``x + ff(norm2(x))``; the first block has no ``norm1``."""

    def __init__(self, config: Config, layer: int, rope: Rope) -> None:
        heads, local = Heads(config.heads, config.heads, config.width // config.heads), config.local[layer]
        self.norm1 = LayerNorm(config.width, eps=config.eps, bias=False) if layer else None
        # A window counts the query itself.
        window = config.reach + 1 if local else None
        self.attn = RotaryAttention(config.width, heads, causal=False, window=window, rope=rope, bias=False)
        self.norm2 = LayerNorm(config.width, eps=config.eps, bias=False)
        self.ff = GatedFeedForward(config.width, config.inner, kind=config.kind)

    def forward(self, x: Value, batch: Batch) -> Value:
        """``[T, width]`` to ``[T, width]``."""
        x = x + self.attn(x if self.norm1 is None else self.norm1(x), batch.seqs, batch.positions)
        return x + self.ff(self.norm2(x))


class Model(LanguageModel):
    """The encoder, and above it the masked-token head if ``config.mlm``."""

    config: Config

    def __init__(self, config: Config, metadata: Mapping[str, Any] | None = None) -> None:
        self.config, self.metadata = config, metadata or {}
        dim = config.width // config.heads
        kinds = {kind: getattr(config, kind) for kind, there in
                 (("rope", not all(config.local)), ("local_rope", any(config.local))) if there}  # fmt: skip
        ropes = {kind: Rope(dim, parameters, context=config.context) for kind, parameters in kinds.items()}
        self.embed = Embedding(config.vocabulary, config.width)
        self.embed_norm = LayerNorm(config.width, eps=config.eps, bias=False)
        self.blocks = [
            Block(config, layer, ropes["local_rope" if local else "rope"]) for layer, local in enumerate(config.local)
        ]
        self.norm = LayerNorm(config.width, eps=config.eps, bias=False)
        if config.mlm:
            self.transform = Linear(config.width, config.width, bias=False)
            self.transform_norm = LayerNorm(config.width, eps=config.eps, bias=False)
            tied = self.embed if config.tied else None
            self.head = Head(config.width, config.vocabulary, tied=tied, bias=True)

    def states(self, batch: Batch) -> Value:
        """The normed output of the last block, ``[T, width]``."""
        x = self.embed_norm(self.embed(batch.ids))
        for block in self.blocks:
            x = block(x, batch)
        return self.norm(x)

    def hidden(self, batch: Batch) -> Value:
        """``norm(act(dense(states)))``, what goes into the masked-token head. Raises ConfigError if there is none."""
        if not self.config.mlm:
            raise ConfigError("this modernbert has no masked-token head: its file holds no head.dense.weight")
        return self.transform_norm(ops.activation(self.transform(self.states(batch)), kind=self.config.head_kind))


def copies(_fields: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Tensors that a file may repeat: each with the one it repeats."""
    return {"decoder.weight": f"{_prefix(names)}embeddings.tok_embeddings.weight"}


def weights(config: Config, names: Collection[str] = ()) -> Sources:
    """Where each parameter is in a checkpoint with these tensor names; as transformers writes it if none are given."""
    start, d = _prefix(names) if names or config.mlm else "", config.width
    sources = weight("embed", f"{start}embeddings.tok_embeddings") | weight("embed_norm", f"{start}embeddings.norm")
    sources |= weight("norm", f"{start}final_norm")
    for i in range(config.layers):
        block, stored = f"blocks.{i}", f"{start}layers.{i}"
        for n, letter in enumerate("qkv"):
            sources[f"{block}.attn.{letter}.weight"] = Source(f"{stored}.attn.Wqkv.weight", rows=(n * d, n * d + d))
        for n, path in enumerate(("gate", "up")):
            rows = (n * config.inner, (n + 1) * config.inner)
            sources[f"{block}.ff.{path}.weight"] = Source(f"{stored}.mlp.Wi.weight", rows=rows)
        sources |= weight(f"{block}.attn.o", f"{stored}.attn.Wo") | weight(f"{block}.ff.down", f"{stored}.mlp.Wo")
        sources |= weight(f"{block}.norm2", f"{stored}.mlp_norm")
        if i:
            sources |= weight(f"{block}.norm1", f"{stored}.attn_norm")
    if config.mlm:
        sources |= weight("transform", "head.dense") | weight("transform_norm", "head.norm")
        sources["head.bias"] = Source("decoder.bias")
        if not config.tied:
            sources |= weight("head", "decoder")
    return sources


def _prefix(names: Collection[str]) -> str:
    return "" if "embeddings.tok_embeddings.weight" in names else "model."
