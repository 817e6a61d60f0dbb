"""`lmrs delta`: look at deltas, merge them, combine them, write them otherwise."""

from pathlib import Path
from typing import Any

import click

import lmrs
from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.delta import combine as combined
from lmrs.delta import from_opendelta, merge_errors, show_html, summary
from lmrs.delta import show as shown
from lmrs.delta.own import settings_of
from lmrs.errors import InputError
from lmrs.files import read_json
from lmrs.models.beside import find_tokenizer
from lmrs.models.checkpoint import save as save_model
from lmrs.terminal import waiting

EXAMPLES = """\b
Examples:
  lmrs delta show smollm2.gguf my-adapter
  lmrs delta merge gpt2 my-adapter --out tuned-gpt2
  lmrs delta combine gpt2 first second --weights 1,-0.5 --how ties --rank 8 --out both
  lmrs delta convert gpt2 my-lora --rank 4 --out smaller
"""

directory = click.argument("directory", type=click.Path(path_type=Path))
out = options.out("Directory to write.")


@click.group(epilog=EXAMPLES)
def delta() -> None:
    """Look at the deltas that `lmrs tune` or PEFT wrote, merge, combine and convert them."""


@delta.command()
@options.model
@directory
@click.option("--html", type=click.Path(path_type=Path), help="Also write the tree as a page.")
@options.as_json
def show(*, model: Path, directory: Path, html: Path | None, as_json: bool) -> None:
    """Show where the delta in DIRECTORY sits in MODEL, how many parameters it has, and what merging it would lose."""
    with waiting(f"loading {model.name}"):
        tuned = lmrs.delta.load(lmrs.load(model), directory)
    if html is not None:
        html.write_text(show_html(tuned), encoding="utf-8")
    if as_json:
        print_json(summary(tuned))
    else:
        click.echo(shown(tuned))


@delta.command()
@options.model
@directory
@out
@options.as_json
def merge(*, model: Path, directory: Path, out: Path, as_json: bool) -> None:
    """Write MODEL with the delta in DIRECTORY merged into its weights, as a checkpoint that transformers reads.

    MODEL's tokenizer goes with it. Prints the largest error of a merged weight against the delta, as float32 and as
    bfloat16 would store it.
    """
    with waiting(f"merging {directory.name}"):
        base = lmrs.load(model)
        tuned = lmrs.delta.load(base, directory)
        save_model(lmrs.delta.merge(tuned), out, tokenizer=find_tokenizer(base))
        errors = {dtype: max(merge_errors(tuned, dtype=dtype).values()) for dtype in ("float32", "bfloat16")}
    if as_json:
        print_json({"out": out, "errors": errors})
    else:
        click.echo(
            f"{out}: error {errors['float32']:.1e} of the delta in float32, {errors['bfloat16']:.1e} in bfloat16"
        )


@delta.command()
@options.model
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--weights", help="What each counts, as numbers with commas [default: 1 each]")
@click.option("--how", type=click.Choice(["concat", "svd", "ties", "dare"]), default="concat", show_default=True)
@click.option("--rank", type=int, help="Rank of the result, except by concat.")
@click.option("--density", default=0.5, show_default=True, help="Part of the entries that ties and dare keep.")
@click.option("--seed", default=0, show_default=True, help="Of what dare drops.")
@out
@options.as_json
def combine(
    *,
    model: Path,
    directories: tuple[Path, ...],
    weights: str | None,
    how: str,
    rank: int | None,
    density: float,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Write one LoRA that does what the deltas in DIRECTORIES do together, weighted."""
    try:
        numbers = None if weights is None else [float(part) for part in weights.split(",")]
    except ValueError:
        raise InputError(f"weights is {weights!r}, expected numbers with commas") from None
    with waiting(f"combining {len(directories)} deltas"):
        base = lmrs.load(model)
        models = [lmrs.delta.load(base, path) for path in directories]
        made = combined(models, numbers, how=how, rank=rank, density=density, seed=seed)  # type: ignore[arg-type]
        lmrs.delta.save(made, out)
    _told(out, made, as_json=as_json)


@delta.command()
@options.model
@directory
@click.option("--rank", type=int, help="Cut every update to this rank by SVD, as a LoRA.")
@out
@options.as_json
def convert(*, model: Path, directory: Path, rank: int | None, out: Path, as_json: bool) -> None:
    """Write the delta in DIRECTORY anew: as PEFT has it, or with --rank as a LoRA of that rank.

    DIRECTORY may also be a config.json of OpenDelta, whose method is put on MODEL untrained.
    """
    with waiting(f"converting {directory.name}"):
        base = lmrs.load(model)
        of_file = directory.is_file()
        made = from_opendelta(read_json(directory))(base) if of_file else lmrs.delta.load(base, directory)
        if rank is not None:
            made = combined([made], how="svd", rank=rank)
        lmrs.delta.save(made, out)
    _told(out, made, as_json=as_json)


def _told(out: Path, made: Any, *, as_json: bool) -> None:
    found = summary(made)
    if as_json:
        print_json({"out": out, "summary": found, "methods": [settings_of(m) for m in lmrs.delta.methods(made)]})
    else:
        click.echo(f"{out}: {', '.join(found.methods)}, {found.own:,} parameters")
