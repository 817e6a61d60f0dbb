"""`lmrs generate`: continue a text."""

from pathlib import Path
from typing import Unpack

import click

from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.cli.running import open_engine, show
from lmrs.engine import DType, Writing

EXAMPLES = """\b
Examples:
  lmrs generate smollm2.gguf 'Once upon a time' --max-tokens 40
  lmrs generate smollm2.gguf 'The sea' --temperature 0.8 --top-p 0.95 --seed 7
  lmrs generate gpt2 - --stop '.' --json < prompt.txt
"""


@click.command(epilog=EXAMPLES)
@options.model
@click.argument("prompt")
@options.generation
@options.delta
@options.dtype
@options.as_json
def generate(
    *,
    model: Path,
    prompt: str,
    delta: Path | None,
    dtype: DType | None,
    as_json: bool,
    **how: Unpack[Writing],
) -> None:
    """Write what MODEL thinks comes after PROMPT (- reads it from standard input).

    By default every token is the most likely one; --temperature 0.8 makes it vary, and --seed makes that repeatable.
    With --json: one Completion, {"text", "tokens", "logprobs", "finish_reason", "top_logprobs"}.
    """
    engine = open_engine(model, delta=delta, dtype=dtype)
    prompt = options.text_of(prompt) if prompt == "-" else prompt
    if as_json:
        print_json(engine.generate(prompt, **how))
        return
    show(engine.stream(prompt, **how), after=prompt)
