"""`lmrs data`: get text ready to be trained on."""

from collections.abc import Iterator
from pathlib import Path

import click

from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.data import pack as pack_texts
from lmrs.eval import rows
from lmrs.terminal import facts, stages
from lmrs.tokenizer import Tokenizer

EXAMPLES = """\b
Examples:
  lmrs data pack --tokenizer my-tokenizer corpus.jsonl -o corpus.shards
  lmrs data pack --tokenizer gpt2 part-*.parquet --column content -o corpus.shards
  lmrs pretrain --family gpt2 --data corpus.shards -o my-gpt
"""


@click.group(epilog=EXAMPLES)
def data() -> None:
    """Get text ready to be trained on."""


@data.command(epilog=EXAMPLES)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="A tokenizer's file or directory.")
@click.option("--column", default="text", show_default=True, help="The field of JSONL or Parquet that holds the text.")
@click.option(
    "--special/--no-special", default=True, show_default=True, help="Special tokens around each text, as GPTs want."
)
@click.option("--shard-tokens", default=1 << 26, show_default=True, help="A shard ends once it has so many tokens.")
@options.out("Directory to write.")
@options.as_json
def pack(
    *,
    files: tuple[Path, ...],
    tokenizer: Path,
    column: str,
    special: bool,
    shard_tokens: int,
    out: Path,
    as_json: bool,
) -> None:
    """Turn the texts of FILES into shards of token ids, which `lmrs pretrain --data` maps and never reads whole.

    FILES are .txt, a text a line; .jsonl; .parquet; or directories that `save_to_disk` of `datasets` wrote. For BERT
    and T5, whose objectives put their own marks, pack with --no-special.

    With --json: {"documents": ..., "tokens": ..., "out": ...}.
    """

    def texts() -> Iterator[str]:
        for file in files:
            yield from (text for text in rows.texts(file, column=column) if text)

    with stages() as told:
        shards = pack_texts(
            texts(),
            out,
            tokenizer=Tokenizer.load(tokenizer),
            special=special,
            shard_tokens=shard_tokens,
            progress=lambda read, _tokens: told("texts", read, None),
        )
    result = {"documents": len(shards), "tokens": shards.tokens, "out": str(out)}
    if as_json:
        print_json(result)
    else:
        facts(result)
