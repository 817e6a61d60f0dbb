"""`lmrs quantize`: pack the weights of a model ahead."""

from pathlib import Path

import click

import lmrs
from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.engine import DType
from lmrs.terminal import waiting

EXAMPLES = """\b
Examples:
  lmrs quantize smollm2.gguf --dtype int8 -o smollm2-int8/
  lmrs generate smollm2-int8/ 'Once upon a time'
"""


@click.command(epilog=EXAMPLES)
@options.model
@click.option(
    "--dtype",
    type=click.Choice(["bf16", "int8", "int4", "f32"]),
    default="int8",
    show_default=True,
    help="How the weights of linear layers are held; fewer bits are faster and less exact.",
)
@options.out("Directory to write.")
@options.as_json
def quantize(*, model: Path, dtype: DType, out: Path, as_json: bool) -> None:
    """Write MODEL to --out as an engine holds it, so that it starts at once.

    What every command makes of that is, to the bit, what it makes of MODEL with --dtype. The file of packed weights is
    mapped, not read: processes that run the same model share it. With --json: {"out", "dtype", "bytes"}.
    """
    with waiting(f"packing {model.name}"):
        lmrs.quantize(lmrs.load(model), out, dtype=dtype)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    if as_json:
        print_json({"out": str(out), "dtype": dtype, "bytes": size})
        return
    click.echo(f"{out}: {size / 1e6:.0f} MB, {dtype}")
