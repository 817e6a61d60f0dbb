"""`lmrs info`: what a checkpoint is, what it needs, and what lmrs uses of this machine."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import click

from lmrs.backend.machine import instruction_set, threads, version
from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.errors import MissingFileError, TokenizerError
from lmrs.models.checkpoint import inspect
from lmrs.nn.attention import Attention
from lmrs.nn.module import Module
from lmrs.terminal import facts
from lmrs.tokenizer import Tokenizer

EXAMPLES = """\b
Examples:
  lmrs info
  lmrs info smollm2.gguf
  LMRS_SIMD=avx2 LMRS_NUM_THREADS=1 lmrs info --json
"""

FLOAT32 = 4


@click.command(epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@options.as_json
def info(*, model: Path | None, as_json: bool) -> None:
    """Describe MODEL without loading its weights; without MODEL, this build and this machine.

    Family, sizes, dtypes, parameters, the memory it takes, its tokenizer, and every place where its config and its
    tensors do not fit: "mismatches" is empty if they do.
    """
    machine = {"version": version(), "instruction_set": instruction_set(), "threads": threads()}
    found = machine if model is None else {"model": str(model), **described(model), **machine}
    if as_json:
        print_json(found)
    else:
        facts({name.replace("_", " "): line for name, value in found.items() for line in _lines(value)})


def described(path: Path) -> dict[str, Any]:
    """The facts about a checkpoint, under the names of `lmrs info --json`; memory in bytes, as float32."""
    model, checkpoint, mismatches = inspect(path)
    parameters = sum(parameter.size for parameter in model.named_parameters().values())
    tokenizer, problem = _tokenizer(checkpoint.path)
    if tokenizer is not None and len(tokenizer) > model.config.vocabulary:
        problem = f"the tokenizer has {len(tokenizer)} tokens, the model's embedding {model.config.vocabulary} rows"
    return {
        "family": model.config.family,
        "config": dataclasses.asdict(model.config),  # type: ignore[call-overload]
        "parameters": parameters,
        "stored": dict(Counter(checkpoint.dtypes.values()).most_common()),
        "memory": {"weights": FLOAT32 * parameters, "cache_per_token": FLOAT32 * _cached(model)},
        "tokenizer": tokenizer and {"kind": tokenizer.kind, "vocabulary": len(tokenizer)},
        "mismatches": [*mismatches, *([problem] if problem else [])],
    }


def _tokenizer(path: Path) -> tuple[Tokenizer | None, str | None]:
    try:
        return Tokenizer.load(path if path.suffix != ".safetensors" else path.parent), None
    except (MissingFileError, TokenizerError) as error:
        return None, str(error)


def _cached(model: Module) -> int:
    """The numbers that attention keeps of each token: keys and values of every layer that has a cache."""
    layers = [module for _, module in model.named_modules() if isinstance(module, Attention) and module.cache]
    return sum(2 * layer.heads.keys * layer.heads.dim for layer in layers)


def _lines(value: object) -> list[str | int]:
    """How a fact reads: one line, or none for one that says nothing."""
    match value:
        case None | []:
            return []
        case {"weights": int(weights), "cache_per_token": int(cache)}:
            return [f"{weights / 1e6:,.1f} MB weights + {cache:,} bytes a token of context"]
        case dict():
            return [", ".join(f"{name} {_short(part)}" for name, part in value.items() if part not in (None, (), []))]
        case list():
            return ["; ".join(map(str, value))]
        case int():
            return [value]
        case _:
            return [str(value)]


def _short(part: object) -> str:
    """A part of a fact; what every layer has in common is said once."""
    if isinstance(part, tuple) and len(set(part)) == 1:
        return "none" if part[0] is None else f"{part[0]} in every layer"
    if isinstance(part, dict):
        return "(" + ", ".join(f"{name} {_short(value)}" for name, value in part.items()) + ")"
    return f"{part:g}" if isinstance(part, float) else str(part)
