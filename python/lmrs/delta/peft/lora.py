"""LoRA in PEFT's terms: the names, shapes and settings of `adapter_config.json` and `adapter_model.safetensors`.

PEFT addresses modules as transformers names them. The family's weight map translates, also where one module of
transformers is several here: GPT-2's `c_attn` is q, k and v one after another, so a LoRA on it is one A shared by three
projections, each with its rows of B; separate ones become a stacked A and a block-structured B.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from lmrs.backend import native
from lmrs.delta.dora import Decomposed, DoRA
from lmrs.delta.lora import LoRA, LowRank, LowRankEmbedding, LowRankHead, low_rank
from lmrs.delta.peft import whole
from lmrs.delta.peft.names import INERT, START, Array, Parts, Tensors, Written, common, known_name, pattern, put, sites
from lmrs.delta.pissa import PiSSA, principal
from lmrs.delta.tree import Delta, M, deltas, methods, with_frozen_base
from lmrs.errors import ConfigError, FormatError
from lmrs.nn.layers import Embedding
from lmrs.nn.module import Module, Parameter

Low: TypeAlias = LowRank | LowRankEmbedding | LowRankHead

# Off, or about how an adapter was made rather than what it computes.
_INERT = {
    "alpha_pattern",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "modules_to_save",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "runtime_config",
    "use_dora",
    "use_rslora",
}
# Starts of A and B that leave the base as it is, and PiSSA, which takes a part out of it that can be found again.
_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "pissa")
_MAGNITUDE = ".lora_magnitude_vector"


def write(model: Any) -> Written:
    """The fields of adapter_config.json, the tensors, and where an A is stacked, which of its rows are of which path.

    Raises ConfigError if the model holds no LoRA, another kind of delta, or a module that transformers has no name for.
    """
    lows, modules = _low_ranks(model), dict(model.named_modules())
    tensors: Tensors = {}
    parts: Parts = {}
    settings: dict[str, tuple[int, float]] = {}
    rslora = all(low.lora.rslora for low in lows.values())
    for name, group in sites(model).items():
        tuned = [(path, rows, lows.pop(path)) for path, rows in group if path in lows]
        if not tuned:
            continue
        outputs = max((rows[1] for _, rows in group if rows), default=tuned[0][2].b.shape[0])
        first = tuned[0][2]
        shared = all(low.a is first.a for _, _, low in tuned)
        if isinstance(first, LowRankEmbedding):
            tensors[f"{START}{name}.lora_embedding_A"] = native.tensor(first.a).numpy().T.copy()
            tensors[f"{START}{name}.lora_embedding_B"] = native.tensor(first.b).numpy()
            settings[name] = first.lora.rank, _alpha(first, first.lora.rank, rslora=rslora)
            continue
        a = [native.tensor(first.a).numpy()] if shared else [native.tensor(low.a).numpy() for _, _, low in tuned]
        rank = sum(map(len, a))
        b = np.zeros((outputs, rank), np.float32)
        start = 0
        for path, rows, low in tuned:
            columns = (0, rank) if shared else (start, start + low.lora.rank)
            b[slice(*(rows or (0, outputs))), slice(*columns)] = native.tensor(low.b).numpy() * np.float32(
                low.scale / first.scale
            )
            start = columns[1]
            if len(tuned) > 1 and not shared:
                parts.setdefault(name, {})[path] = columns
        tensors[f"{START}{name}.lora_A.weight"] = np.concatenate(a)
        tensors[f"{START}{name}.lora_B.weight"] = b
        if isinstance(first, Decomposed):
            m = np.zeros(outputs, np.float32)
            for path, rows in group:
                known = next((low for other, _, low in tuned if other == path), None)
                # A row without an update keeps its norm.
                norms = native.tensor(known.m).numpy() if isinstance(known, Decomposed) else _norms(modules[path])
                m[slice(*(rows or (0, outputs)))] = norms
            tensors[f"{START}{name}.lora_magnitude_vector"] = m
        settings[name] = rank, _alpha(first, rank, rslora=rslora)
    if lows:
        raise ConfigError(f"transformers has no module for {', '.join(sorted(lows))}")
    changed, saved = whole.write(model)
    config = _config(model, settings, methods(model)[-1], rslora=rslora)  # type: ignore[arg-type]
    return config | {"modules_to_save": saved or None}, tensors | changed, parts


def _alpha(low: Low, rank: int, *, rslora: bool) -> float:
    """What PEFT has to call alpha for the scale of ``low`` at this rank."""
    same = rank == low.lora.rank and low.lora.rslora == rslora
    return low.lora.alpha if same else low.scale * (math.sqrt(rank) if rslora else rank)


def _low_ranks(model: Module) -> dict[str, Low]:
    found = deltas(model)
    if not found:
        raise ConfigError("this model holds no LoRA")
    lows = {path: delta for path, delta in found.items() if isinstance(delta, Low)}
    for path, delta in found.items():
        if path not in lows or isinstance(delta.base, Delta):
            raise ConfigError(f"PEFT's files cannot hold {path}: expected one LoRA on a plain projection")
    return lows


def _config(model: Any, settings: Mapping[str, tuple[int, float]], first: LoRA, *, rslora: bool) -> dict[str, Any]:
    (rank, alpha), _ = Counter(settings.values()).most_common(1)[0]
    short = {name.rpartition(".")[2] for name in settings}
    covered = {name for name in sites(model) if name.rpartition(".")[2] in short}
    dropouts = {low.lora.dropout for low in _low_ranks(model).values()}
    return common(model, "LORA", short if covered == set(settings) else settings) | {
        "r": rank,
        "lora_alpha": _number(alpha),
        "lora_dropout": max(dropouts),
        "use_rslora": rslora,
        "use_dora": isinstance(first, DoRA),
        "init_lora_weights": "pissa" if isinstance(first, PiSSA) else True,
        "bias": first.bias,
        "fan_in_fan_out": any(source.transposed for source in model.sources().values()),
        "rank_pattern": {name: r for name, (r, _) in settings.items() if r != rank},
        "alpha_pattern": {name: _number(x) for name, (_, x) in settings.items() if x != alpha},
    }


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def read(model: M, config: Mapping[str, Any], tensors: Tensors, parts: Parts) -> M:
    """The frozen ``model`` with the LoRA of a PEFT directory.

    Raises ConfigError for a setting that is on and not supported, or a module the model does not have, FormatError for
    tensors that do not fit each other, the settings or the model; each names the field or the tensor.
    """
    _refuse_unsupported(config)
    tensors, changed = whole.divided(model, config, tensors)
    model, _ = whole.put(with_frozen_base(model), config, changed)
    magnitudes = {
        key.removeprefix(START).removesuffix(_MAGNITUDE): values
        for key, values in tensors.items()
        if key.endswith(_MAGNITUDE) and config.get("use_dora")
    }
    known, pairs = (
        sites(model),
        _pairs({key: x for key, x in tensors.items() if magnitudes == {} or _MAGNITUDE not in key}),
    )
    wrapped: dict[str, tuple[LoRA, Array, Array, Parameter | None, Array | None]] = {}
    modules = dict(model.named_modules())
    for module, (a, b) in pairs.items():
        name = known_name(module, known)
        lora = _lora(config, module, len(a))
        group = known[name]
        outputs = max((rows[1] for _, rows in group if rows), default=None)
        if outputs is not None and len(b) != outputs:
            raise FormatError(f"lora_B of {module} has {len(b)} rows, the module has {outputs} outputs")
        stacked = parts.get(name)
        shared = Parameter(shape=a.shape) if len(group) > 1 and stacked is None else None
        for path, rows in group:
            columns = (0, len(a)) if stacked is None else stacked.get(path)
            if columns is None:
                continue
            part_a, part_b = a[slice(*columns)], b[slice(*(rows or (0, len(b)))), slice(*columns)]
            expected = getattr(getattr(modules.get(path), "weight", None), "shape", None)
            if isinstance(modules.get(path), Embedding):
                if type(lora) is not LoRA:
                    raise ConfigError(f"{path} is an embedding, which takes plain LoRA only")
                expected = expected and expected[::-1]
            if expected != (len(part_b), part_a.shape[1]):
                shown = f"{[len(part_b), part_a.shape[1]]}"
                raise FormatError(f"the LoRA of {module} is for a weight {shown}, {path} has {list(expected or ())}")
            rank = len(part_a)
            alpha = lora.alpha if rank == lora.rank else lora.alpha * _divisor(lora, rank) / _divisor(lora, lora.rank)
            m = magnitudes.get(module)
            m = None if m is None else m[slice(*(rows or (0, len(m))))]
            wrapped[path] = dataclasses.replace(lora, rank=rank, alpha=alpha), part_a, part_b, shared, m

    def change(path: str, module: Module) -> Module:
        if path not in wrapped:
            return module
        lora, a, b, shared, m = wrapped[path]
        low: Low
        if isinstance(lora, DoRA):
            low = Decomposed(module, lora, site=path)
            if m is None:
                raise FormatError(f"lora_magnitude_vector of {path} is missing")
            put(f"{path}.m", low.m, m)
        else:
            low = principal(module, lora, site=path) if isinstance(lora, PiSSA) else low_rank(module, lora, site=path)
        if isinstance(low, LowRankEmbedding):
            a = a.T
        low.a = low.a if shared is None else shared
        for parameter, values in ((low.a, a), (low.b, b)):
            parameter.data = native.array(np.ascontiguousarray(values, np.float32)).tensor
        return low

    tuned: Any = model.replace("*", change)
    first, *_ = wrapped.values()
    tuned.deltas = (
        *methods(model),
        dataclasses.replace(
            first[0],
            targets=pattern(wrapped),
            ranks={path: lora.rank for path, (lora, *_) in wrapped.items()},
            alphas={path: lora.alpha for path, (lora, *_) in wrapped.items()},
        ),
    )
    return tuned  # type: ignore[no-any-return]


def _divisor(lora: LoRA, rank: int) -> float:
    return math.sqrt(rank) if lora.rslora else rank


def _norms(module: Any) -> Array:
    return np.asarray(np.linalg.norm(native.tensor(module.weight).numpy().astype(np.float64), axis=1))


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    for field, value in config.items():
        if field in _INERT or field in INERT:
            continue
        if field == "init_lora_weights":
            active = value not in _STARTS
        else:
            # A field this version does not know is a setting of something off, unless it is itself a switch or a plan.
            active = value is True or (isinstance(value, list | dict) and bool(value))
        if active:
            raise ConfigError(f"adapter_config.json: {field} is {value!r}, which is not supported")


def _pairs(tensors: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
    modules = {}
    for key in tensors:
        match = re.fullmatch(rf"{re.escape(START)}(.+)\.lora_(?:[AB]\.weight|(embedding_)[AB])", key)
        if match is None:
            raise FormatError(f"tensor {key} is not a LoRA's: expected {START}<module>.lora_A.weight or .lora_B.weight")
        modules[match[1]] = ("embedding_", "") if match[2] else ("", ".weight")
    pairs = {}
    for module, (start, end) in modules.items():
        a, b = (tensors.get(f"{START}{module}.lora_{start}{letter}{end}") for letter in "AB")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or not len(a):
            shapes = ", ".join("missing" if x is None else str(list(x.shape)) for x in (a, b))
            raise FormatError(
                f"lora_A and lora_B of {module} are {shapes}, expected [rank, inputs] and [outputs, rank]"
            )
        pairs[module] = a, b
    if not pairs:
        raise FormatError("the adapter has no tensors")
    return pairs


def _lora(config: Mapping[str, Any], module: str, rank: int) -> LoRA:
    said = _by_pattern(config, "rank_pattern", module, config.get("r", 8))
    if said != rank:
        raise FormatError(f"lora_A of {module} has rank {rank}, adapter_config.json says {said}")
    alpha = _by_pattern(config, "alpha_pattern", module, config.get("lora_alpha", 8))
    dropout = config.get("lora_dropout") or 0.0
    if not isinstance(alpha, int | float) or not isinstance(dropout, int | float):
        raise ConfigError(f"adapter_config.json: lora_alpha is {alpha!r}, lora_dropout {dropout!r}, expected numbers")
    kind = DoRA if config.get("use_dora") else PiSSA if config.get("init_lora_weights") == "pissa" else LoRA
    bias = config.get("bias", "none")
    return kind(rank=rank, alpha=alpha, dropout=dropout, rslora=bool(config.get("use_rslora")), bias=bias)


def _by_pattern(config: Mapping[str, Any], field: str, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of ``module``, as PEFT chooses it."""
    patterns = config.get(field) or {}
    if not isinstance(patterns, Mapping):
        raise ConfigError(f"adapter_config.json: {field} is {patterns!r}, expected an object")
    for regex, value in patterns.items():
        # Without repeated groups and with few repetitions a pattern from a file cannot take long.
        if len(regex) > 200 or re.search(r"\)[*+?{]", regex) or len(re.findall(r"[*+{]", regex)) > 3:
            raise ConfigError(f"adapter_config.json: the pattern {regex!r} of {field} is too complex")
        try:
            if re.match(rf"(.*\.)?({regex})$", module):
                return value
        except re.error as error:
            raise ConfigError(f"adapter_config.json: the pattern {regex!r} of {field}: {error}") from None
    return default
