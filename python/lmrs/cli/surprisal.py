"""`lmrs surprisal`: how surprising each word of a text is."""

from pathlib import Path

import click

from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.cli.running import open_engine
from lmrs.engine import DType
from lmrs.eval import plot as pictures
from lmrs.eval import surprisal as by_word
from lmrs.terminal import columns, waiting

EXAMPLES = """\b
Examples:
  echo "The horse raced past the barn fell." | lmrs surprisal smollm2.gguf -
  lmrs surprisal gpt2 story.txt --plot story.png
  lmrs surprisal smollm2.gguf story.txt --json
"""


@click.command(epilog=EXAMPLES)
@options.model
@click.argument("file")
@options.plot
@options.delta
@options.dtype
@options.as_json
def surprisal(
    *, model: Path, file: str, plot: Path | None, delta: Path | None, dtype: DType | None, as_json: bool
) -> None:
    """Of each word of the text in FILE (- for standard input), -log p in nats after all that is before it.

    That the word ends counts for it and not for the next one (Pimentel & Meister 2024); "of its tokens" is without this
    correction. In scripts without spaces each character is a word.

    With --json: {"words": [{"word", "start", "stop", "tokens", "surprisal", "uncorrected"}]}; start and stop in
    characters.
    """
    text = options.text_of(file).rstrip("\n")
    engine = open_engine(model, delta=delta, dtype=dtype)
    with waiting(f"reading {len(text):,} characters"):
        words = by_word(engine, text)
    if plot is not None:
        pictures.surprisals(plot, words)
    if as_json:
        print_json({"words": words})
        return
    rows = [[word.word, str(word.tokens), f"{word.surprisal:.3f}", f"{word.uncorrected:.3f}"] for word in words]
    columns(["word", "tokens", "nats", "of its tokens"], rows)
