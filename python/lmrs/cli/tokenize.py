"""`lmrs tokenize`: what a tokenizer makes of a text."""

from pathlib import Path

import click

from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.tokenizer import Tokenizer

EXAMPLES = """\b
Examples:
  lmrs tokenize smollm2.gguf 'Hello, world'
  lmrs tokenize bert-base notes.txt --file --json
"""


@click.command(epilog=EXAMPLES)
@options.model
@click.argument("text")
@click.option("--file", "is_file", is_flag=True, help="TEXT is the name of a file (- for standard input).")
@click.option("--special/--no-special", default=True, show_default=True, help="Add the model's special tokens.")
@options.as_json
def tokenize(*, model: Path, text: str, is_file: bool, special: bool, as_json: bool) -> None:
    """Show the token ids of TEXT, and which characters each token covers.

    MODEL is a checkpoint directory, a GGUF file, or a tokenizer file (tokenizer.json, vocab.txt). With --json:
    {"ids": [...], "offsets": [[start, end], ...], "tokens": [...]}.
    """
    text = options.text_of(text) if is_file else text
    encoding = Tokenizer.load(model).encode(text, add_special_tokens=special)
    if as_json:
        print_json({"ids": encoding.ids, "offsets": encoding.offsets, "tokens": encoding.tokens})
        return
    for token_id, token, (start, end) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True):
        click.echo(f"{token_id:>7}  {start:>6}-{end:<6}  {token}")
    click.echo(f"{len(encoding.ids)} tokens, {len(text)} characters", err=True)
