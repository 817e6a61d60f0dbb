"""`lmrs corpus`: the perplexity of a model on many texts."""

import re
from pathlib import Path

import click

from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.cli.running import open_engine
from lmrs.engine import DType
from lmrs.eval import PROTOCOLS, Protocol, Shard, Totals, merged, score_corpus
from lmrs.terminal import facts, running

EXAMPLES = """\b
Examples:
  lmrs corpus smollm2.gguf part-1.jsonl part-2.parquet --state run.json
  lmrs corpus smollm2.gguf web.jsonl.gz --shard 0/4 --state shard-0.json
  lmrs corpus --merge shard-0.json shard-1.json shard-2.json shard-3.json
"""


@click.command(epilog=EXAMPLES)
@click.argument("given", nargs=-1, required=True, metavar="[MODEL] FILE...", type=click.Path(path_type=Path))
@click.option("--merge", is_flag=True, help="Add up the --state files of shards; no MODEL then.")
@click.option("--column", default="text", show_default=True, help="Where the text is, in JSON lines and Parquet.")
@click.option("--protocol", type=click.Choice(list(PROTOCOLS)), default="rolling", show_default=True)
@click.option("--window", type=int, help="Tokens in a window [default: the model's context]")
@click.option("--stride", type=int, help="Tokens from one window to the next, for strided protocols.")
@click.option(
    "--shard", default="0/1", show_default=True, metavar="I/N", help="Score every N-th text, from number I on."
)
@click.option("--state", type=click.Path(path_type=Path), help="Keep the sums here; a run that finds them goes on.")
@options.delta
@options.dtype
@options.as_json
def corpus(
    *,
    given: tuple[Path, ...],
    merge: bool,
    column: str,
    protocol: Protocol,
    window: int | None,
    stride: int | None,
    shard: str,
    state: Path | None,
    delta: Path | None,
    dtype: DType | None,
    as_json: bool,
) -> None:
    """Score all texts in FILEs: a line each of .txt, a field of .jsonl or .parquet (.txt and .jsonl also .gz).

    Sums are integers, so that those of shards add up to those of the whole, exactly.

    With --json: {"protocol", "texts", "skipped", "tokens", "words", "bytes", "sum_logprob", "perplexity",
    "word_perplexity", "byte_perplexity", "bits_per_byte"}.
    """
    if merge:
        _show(merged(given), as_json=as_json)
        return
    model, *files = given
    if not files:
        raise click.UsageError("expected MODEL and at least one FILE")
    if not (part := re.fullmatch(r"(\d+)/(\d+)", shard)):
        raise click.UsageError(f"--shard is {shard}, expected I/N, such as 0/4")
    engine = open_engine(model, delta=delta, dtype=dtype)
    with running("scoring") as told:
        totals = score_corpus(
            engine,
            files,
            column=column,
            protocol=protocol,
            window=window,
            stride=stride,
            shard=Shard(index=int(part[1]), of=int(part[2])),
            state=state,
            on_done=lambda done: told(f"{done.texts:,} texts, {done.tokens:,} tokens, {done.skipped:,} skipped"),
        )
    _show(totals, as_json=as_json)


def _show(totals: Totals, *, as_json: bool) -> None:
    counted: dict[str, object] = {
        name: getattr(totals, name) for name in ("protocol", "texts", "skipped", "tokens", "words", "bytes")
    }
    measured = ("sum_logprob", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
    values = {name: getattr(totals, name) for name in measured}
    if as_json:
        print_json(counted | values)
    else:
        facts(counted | {name.replace("_", " "): f"{value:,.4f}" for name, value in values.items()})
