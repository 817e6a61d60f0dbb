"""`lmrs scaling`: train a grid of small models, fit a law on finished runs, plan the next."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lmrs import scaling as laws
from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.errors import InputError
from lmrs.terminal import columns, counting, facts, losses

if TYPE_CHECKING:
    from lmrs.scaling.grid import Size

NAMES = ("E", "A", "B", "alpha", "beta")
runs_file = click.argument("runs", type=click.Path(path_type=Path, exists=True, dir_okay=False))
EXAMPLES = """\b
Examples:
  lmrs scaling run --out runs.csv
  lmrs scaling fit runs.csv --bootstrap 200 --plot law.png
  lmrs scaling plan runs.csv --compute 1e15 --compute 1e18
"""


@click.group(epilog=EXAMPLES)
def scaling() -> None:
    """Predict a model's loss from its size and its data: L = E + A/N^alpha + B/D^beta."""


@scaling.command()
@options.out("CSV file the runs are added to.")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="LAYERSxWIDTH",
    default=("1x32", "2x64", "3x96", "4x128"),
    show_default=True,
)
@click.option(
    "--tokens",
    multiple=True,
    type=int,
    default=(40_000, 80_000, 160_000, 320_000),
    show_default=True,
    help="Repeatable.",
)
@click.option("--text", help="Text to learn in place of the one that ships; its last tenth is held out.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Its tokenizer, with --text.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same runs, bit for bit.")
@options.as_json
def run(
    *,
    out: Path,
    sizes: tuple[str, ...],
    tokens: tuple[int, ...],
    text: str | None,
    tokenizer: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Train a grid of small GPTs and write their held-out losses to --out; runs that it has are not repeated.

    With --json: the runs of --out, {"parameters": [...], "tokens": [...], "loss": [...]}.
    """
    from lmrs.demo import texts
    from lmrs.scaling import grid
    from lmrs.tokenizer import Tokenizer

    if (text is None) != (tokenizer is None):
        raise InputError("--text and --tokenizer come together")
    if text is None:
        chosen, source = texts.tokenizer(), texts.shakespeare()
        train, held_out = source.train, source.held_out
    else:
        assert tokenizer is not None
        chosen, whole = Tokenizer.load(tokenizer), options.text_of(text)
        train, held_out = whole[: len(whole) * 9 // 10], whole[len(whole) * 9 // 10 :]
    grid_sizes = [_size(said) for said in sizes]
    with losses("the grid", sum(count // grid.BATCH_TOKENS for count in tokens) * len(grid_sizes)) as told:
        grid.run(
            out,
            train=train,
            held_out=held_out,
            tokenizer=chosen,
            sizes=grid_sizes,
            tokens=tokens,
            seed=seed,
            on_step=lambda size, count, step: told(step.loss, step.tokens),
        )
    runs = laws.read(out)
    if as_json:
        print_json(runs)
        return
    rows = zip(runs.parameters, runs.tokens, runs.loss, strict=True)
    columns(["parameters", "tokens", "loss"], [[f"{n:,.0f}", f"{d:,.0f}", f"{loss:.4f}"] for n, d, loss in rows])


@scaling.command()
@runs_file
@click.option(
    "--method",
    type=click.Choice(["variable_projection", "lbfgs"]),
    default="variable_projection",
    show_default=True,
    help="A search over the two exponents, or descents from the paper's grid of starts.",
)
@click.option("--bootstrap", default=200, show_default=True, help="Samples for the intervals; 0 for none.")
@click.option("--level", default=0.9, show_default=True, help="How much of the bootstrap an interval holds.")
@click.option("--plot", type=click.Path(path_type=Path), help="Picture to write: PNG, SVG or PDF.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
@options.as_json
def fit(
    *, runs: Path, method: laws.Method, bootstrap: int, level: float, plot: Path | None, seed: int, as_json: bool
) -> None:
    """Fit the law on RUNS, a CSV file with the columns parameters, tokens and loss.

    With --json: {"law": {"E", "A", "B", "alpha", "beta"}, "objective", "intervals", "level", "runs"}.
    """
    points = laws.read(runs)
    with counting("bootstrap", bootstrap) as told:
        found = laws.fit(points, method=method, bootstrap=bootstrap, level=level, seed=seed, on_sample=told)
    if plot is not None:
        from lmrs.scaling.plot import draw

        draw(plot, points, found.law)
    law = {name: getattr(found.law, name) for name in NAMES}
    if as_json:
        shown = {"objective": found.objective, "intervals": found.intervals, "level": level, "runs": len(points)}
        print_json({"law": law, **shown})
        return
    edges = {name: found.intervals.get(name) for name in NAMES}
    spans = {name: "" if edge is None else f"{edge[0]:,.4g} to {edge[1]:,.4g}" for name, edge in edges.items()}
    columns(["", "fitted", f"{100 * level:.0f} % of the bootstrap"], [[n, f"{law[n]:,.5g}", spans[n]] for n in NAMES])
    worst = abs(found.residuals).max()
    facts({"runs": len(points), "objective": f"{found.objective:.4g}", "largest error": f"{100 * worst:.2f} %"})


@scaling.command()
@runs_file
@click.option("--compute", "computes", multiple=True, type=float, required=True, help="Operations, 6·N·D; repeatable.")
@click.option("--plot", type=click.Path(path_type=Path), help="Picture to write: PNG, SVG or PDF.")
@options.as_json
def plan(*, runs: Path, computes: tuple[float, ...], plot: Path | None, as_json: bool) -> None:
    """Fit the law on RUNS and say which size and how many tokens spend a budget best.

    With --json: [{"compute", "parameters", "tokens", "loss"}], one for each --compute.
    """
    points = laws.read(runs)
    law = laws.fit(points).law
    plans = [law.plan(compute) for compute in computes]
    if plot is not None:
        from lmrs.scaling.plot import draw

        draw(plot, points, law, plans=plans)
    if as_json:
        print_json(plans)
        return
    rows = [[f"{p.compute:.3g}", f"{p.parameters:,.4g}", f"{p.tokens:,.4g}", f"{p.loss:.4f}"] for p in plans]
    columns(["compute", "parameters", "tokens", "loss"], rows)


def _size(said: str) -> "Size":
    from lmrs.scaling.grid import Size

    parts = said.split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise InputError(f"--size is {said!r}, expected LAYERSxWIDTH, as 4x128")
    return Size(layers=int(parts[0]), width=int(parts[1]))
