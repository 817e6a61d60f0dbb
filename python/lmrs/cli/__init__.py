"""The command line: one file a command, each thin over the library."""

import importlib
import sys
from typing import Any, NoReturn

import click

from lmrs.errors import Error

COMMANDS = (
    "info",
    "quantize",
    "tokenize",
    "tokenizer",
    "generate",
    "chat",
    "ppl",
    "pll",
    "surprisal",
    "corpus",
    "eval",
    "embed",
    "data",
    "pretrain",
    "tune",
    "align",
    "delta",
    "scaling",
    "serve",
    "demo",
)


class Commands(click.Group):
    """A group whose commands are imported when asked for, and whose typed errors end as one line and exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The function `lmrs.cli.<name>.<name>`."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"lmrs.cli.{cmd_name}"), cmd_name)
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; what was wrong with the input is said once, without a traceback."""
        try:
            return super().main(*args, **kwargs)
        except Error as error:
            _end(str(error))
        except OSError as error:
            _end(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _end(said: str) -> NoReturn:
    click.echo("Error: " + " ".join(said.split()), err=True)
    sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lmrs")
def main() -> None:
    """Load, score, run and tune language models on this machine.

    Start with `lmrs demo`, which needs nothing but this package. MODEL is a directory with a config.json and
    safetensors, a GGUF file, or org/name on the Hugging Face hub (lmrs[hub]). `LMRS_NUM_THREADS` and `LMRS_SIMD`
    (scalar, avx2, avx512, avx512-vnni, avx512-bf16) set what is used of the machine.
    """
