"""`lmrs tokenizer`: make a tokenizer from texts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import click

from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.terminal import facts, stages
from lmrs.tokenizer import Tokenizer

EXAMPLES = """\b
Examples:
  lmrs tokenizer train notes.txt --vocab-size 8000 -o my-tokenizer
  lmrs tokenizer train *.txt --model wordpiece --vocab-size 30000 -o my-bert
  lmrs tokenizer train *.txt --model unigram --byte-fallback --vocab-size 16000 -o my-t5
"""


@click.group(epilog=EXAMPLES)
def tokenizer() -> None:
    """Make a tokenizer. `lmrs tokenize` uses one."""


@tokenizer.command(epilog=EXAMPLES)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", type=click.Choice(["bpe", "wordpiece", "unigram"]), default="bpe",
              show_default=True, help="Byte-level BPE as GPT-2 has it, WordPiece as BERT, Unigram as T5.")  # fmt: skip
@click.option("--vocab-size", type=click.IntRange(1), required=True, help="Tokens at most, special ones included.")
@click.option("--min-frequency", type=click.IntRange(0), default=0, help="Do not merge pairs that are rarer.")
@click.option("--byte-fallback", is_flag=True, help="With unigram: spell in bytes what the vocabulary lacks.")
@click.option("--special", multiple=True, metavar="TOKEN", help="A special token, in place of the usual; repeatable.")
@options.out("Directory to write.")
@options.as_json
def train(
    *,
    files: tuple[Path, ...],
    model: Literal["bpe", "wordpiece", "unigram"],
    vocab_size: int,
    min_frequency: int,
    byte_fallback: bool,
    special: tuple[str, ...],
    out: Path,
    as_json: bool,
) -> None:
    """Train a tokenizer on the text of FILES and write a directory with its tokenizer.json.

    Each line is a text. With --json: {"model": ..., "vocab_size": ..., "out": ...}.
    """
    with stages() as progress:
        trained = Tokenizer.train(
            _lines(files),
            model=model,
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            byte_fallback=byte_fallback,
            special_tokens=list(special) or None,
            progress=progress,
        )
    trained.save(out)
    result = {"model": model, "vocab_size": len(trained), "out": str(out)}
    if as_json:
        print_json(result)
    else:
        facts(result)


def _lines(files: tuple[Path, ...]) -> Iterator[str]:
    for path in files:
        try:
            with path.open(encoding="utf-8", newline="\n") as lines:
                yield from lines
        except UnicodeDecodeError as error:
            raise click.ClickException(f"{path}: not UTF-8 near byte {error.start}") from error
