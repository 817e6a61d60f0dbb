"""`lmrs info`: what a checkpoint is, what it needs, and what lmrs uses of this machine."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import click

import lmrs
from lmrs.backend.native import instruction_set, threads
from lmrs.cli.as_json import print_json
from lmrs.models import inspect
from lmrs.terminal import facts

EXAMPLES = """\b
Examples:
  lmrs info
  lmrs info smollm2.gguf
  LMRS_SIMD=avx2 LMRS_NUM_THREADS=1 lmrs info --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs to read.")
def info(*, model: Path | None, as_json: bool) -> None:
    """Describe MODEL without loading its weights: family, sizes, dtypes, parameters, memory, tokenizer, and whether its
    config and its tensors fit. Without MODEL: this build and this machine.

    With --json the same facts; "mismatches" is [] if the config and the tensors agree.
    """
    machine = {"version": lmrs.__version__, "instruction_set": instruction_set(), "threads": threads()}
    found = machine if model is None else {"model": str(model), **describe(model), **machine}
    if as_json:
        print_json(found)
        return
    facts({name.replace("_", " "): line for name, value in found.items() if (line := _line(name, value)) is not None})
    for mismatch in found.get("mismatches", ()):
        click.echo(f"mismatch: {mismatch}")


def describe(path: Path) -> dict[str, Any]:
    """The facts about a checkpoint, under the names of `lmrs info --json`."""
    model, tensors, mismatches = inspect(path)
    parameters = model.named_parameters().values()
    count = sum(parameter.size for parameter in parameters)
    return {
        "family": model.config.family,
        "config": dataclasses.asdict(model.config),
        "context": model.config.context,
        "parameters": count,
        "dtypes": dict(Counter(tensor.dtype for tensor in tensors)),
        "memory": {"weights": 4 * count, "cache_per_token": cache_bytes(model)},
        "tokenizer": tokenizer(path),
        "mismatches": mismatches,
    }
