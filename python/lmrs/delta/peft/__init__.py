"""PEFT's directories, both ways, for every method that PEFT has; one file a shape of them.

A directory that PEFT wrote, or that it reads, says its kind in ``peft_type``.
"""

from collections.abc import Mapping
from typing import Any

from lmrs.delta.adalora import AdaLoRA
from lmrs.delta.dora import DoRA
from lmrs.delta.ia3 import IA3
from lmrs.delta.loha import LoHa
from lmrs.delta.lokr import LoKr
from lmrs.delta.lora import LoRA
from lmrs.delta.peft import factors, lora, prompts, vectors
from lmrs.delta.peft.names import Parts, Tensors, Written, sites
from lmrs.delta.pissa import PiSSA
from lmrs.delta.prefix import Prefix
from lmrs.delta.prompt import Prompt, PTuning
from lmrs.delta.specified import NormTuning, Subset
from lmrs.delta.tree import Delta, M, Method, deltas, methods
from lmrs.delta.vera import VeRA
from lmrs.errors import ConfigError
from lmrs.nn.attention import Attention

__all__ = ["Parts", "Tensors", "holds", "read", "write"]

_READERS = {
    "LORA": lora.read,
    "ADALORA": factors.read_adalora,
    "LOHA": factors.read_loha,
    "LOKR": factors.read_lokr,
    "IA3": vectors.read_ia3,
    "LN_TUNING": vectors.read_norms,
    "VERA": vectors.read_vera,
    "PREFIX_TUNING": prompts.read_prefix,
    "PROMPT_TUNING": prompts.read_prompt,
    "P_TUNING": prompts.read_prompt,
}
_WRITERS: dict[type[Method], Any] = {
    LoRA: lora.write,
    DoRA: lora.write,
    PiSSA: lora.write,
    AdaLoRA: factors.write_adalora,
    LoHa: factors.write_loha,
    LoKr: factors.write_lokr,
    IA3: vectors.write_ia3,
    NormTuning: vectors.write_norms,
    VeRA: vectors.write_vera,
    Prefix: prompts.write_prefix,
    Prompt: prompts.write_prompt,
    PTuning: prompts.write_prompt,
}


def holds(model: Any) -> bool:
    """Whether PEFT has what tunes ``model``: one method, on modules that transformers has a name for.

    Where one of transformers' modules is several here, PEFT shares what we do not; only LoRA and DoRA are held then.
    """
    applied = methods(model)
    kind = type(applied[-1]) if applied else None
    # A subset of the base goes into a LoRA's file as modules_to_save.
    beside = all(isinstance(method, Subset) for method in applied[:-1]) and (len(applied) < 2 or kind in (LoRA, DoRA))
    if kind not in _WRITERS or not beside:
        return False
    if kind in (Prefix, Prompt, PTuning):
        causal = all(module.causal for _, module in model.named_modules() if isinstance(module, Attention))
        return causal and getattr(applied[0], "targets", "*.attn") == "*.attn"
    found = deltas(model)
    if any(isinstance(low.base, Delta) for low in found.values()):
        return False
    if kind in (LoRA, DoRA):
        try:
            lora.write(model)
        except ConfigError:
            return False
        return True
    alone = {group[0][0] for group in sites(model).values() if len(group) == 1}
    return found.keys() <= alone and (kind is not PiSSA or getattr(applied[0], "bias", "none") == "none")


def write(model: Any) -> Written:
    """The fields of adapter_config.json, the tensors, and where an A is stacked, which of its rows are of which path.

    Raises ConfigError if the model holds what PEFT's files cannot.
    """
    applied = methods(model)
    kind = type(applied[-1]) if applied else LoRA
    if kind not in _WRITERS:
        raise ConfigError(f"PEFT has no {kind.__name__}")
    written: Written = _WRITERS[kind](model)
    return written


def read(model: M, config: Mapping[str, Any], tensors: Tensors, parts: Parts) -> M:
    """The frozen ``model`` with the delta of a PEFT directory.

    Raises ConfigError for a setting that is on and not supported, or a module the model does not have, FormatError for
    tensors that do not fit each other, the settings or the model; each names the field or the tensor.
    """
    kind = config.get("peft_type")
    if kind not in _READERS:
        raise ConfigError(f"adapter_config.json: peft_type is {kind!r}, expected one of {', '.join(_READERS)}, LMRS")
    if kind == "LORA":
        return lora.read(model, config, tensors, parts)
    tuned: M = _READERS[kind](model, config, tensors)  # type: ignore[operator]
    return tuned
