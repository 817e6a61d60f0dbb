"""`lmrs eval 3h`: what each stage of alignment changed."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import click

import lmrs
from lmrs import align
from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.engine import Engine
from lmrs.errors import InputError
from lmrs.eval.threeh import Asked, Compared, Judge, draw, rows, three_h, truthful_qa
from lmrs.models.beside import tokenizer_of
from lmrs.terminal import columns, progress, waiting

EXAMPLES = """\b
Examples:
  lmrs eval 3h smollm2.gguf --harmless hh.jsonl.gz --honest TruthfulQA.csv --limit 100
  lmrs eval 3h smollm2.gguf --stage sft=instructed --stage dpo=preferred --harmless hh.jsonl.gz --plot 3h.png
  lmrs eval 3h smollm2.gguf --stage ppo=pleasing --harmless hh.jsonl.gz --benign tasks.jsonl --judge judge
"""
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("3h", epilog=EXAMPLES)
@options.model
@click.option("--stage", "stages", multiple=True, metavar="NAME=DIR", help="A delta on MODEL to compare; repeatable.")
@click.option("--helpful", type=FILE, help="Preferences for helpfulness: chosen and rejected, as HH has them.")
@click.option("--harmless", type=FILE, help="Preferences for harmlessness; their prompts should be refused, too.")
@click.option("--honest", type=FILE, help="TruthfulQA.csv.")
@click.option("--benign", type=FILE, help="Instructions that should not be refused, of any shape `align sft` reads.")
@click.option("--judge", type=click.Path(path_type=Path, exists=True), help="What `lmrs align reward` wrote.")
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True, help="Items of each file.")
@click.option("--longest", type=click.IntRange(min=2), default=512, show_default=True, help="Leave out longer items.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Of a reply drawn.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the replies drawn.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a picture of all stages (.png, .svg or .pdf).")
@options.as_json
def threeh(
    *,
    model: Path,
    stages: tuple[str, ...],
    helpful: Path | None,
    harmless: Path | None,
    honest: Path | None,
    benign: Path | None,
    judge: Path | None,
    limit: int,
    longest: int,
    max_tokens: int,
    seed: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Judge MODEL, and each --stage of it, as helpful, honest and harmless.

    What is judged is what files are given for. Preferences: `acc`, how often the chosen reply is the likelier one,
    `acc_norm` a token, `implicit` relative to MODEL. TruthfulQA: `mc1`, `mc2`. Replies drawn at temperature 1 to
    harmful and to benign prompts: how many are `refusals`, their `tokens`, the `kl` from MODEL in nats, and with a
    --judge their `score` and how often one `wins` against MODEL's.

    With --json: {STAGE: {SUBJECT: {"items", "metrics": {name: {"value", "error"}}, "each"}}}; MODEL itself is "base".
    """
    with waiting(f"loading {model.name}"):
        base: Any = lmrs.load(model)
        engines = {"base": Engine(base)}
        longest = min(longest, base.config.context or longest)
        for stage in stages:
            name, equals, directory = stage.partition("=")
            if not equals or name in engines:
                raise click.UsageError(f"--stage is {stage!r}, expected NAME=DIR with a name of its own")
            engines[name] = Engine(lmrs.delta.load(base, Path(directory)))
        harmful = _compared(base, harmless, limit=limit, longest=longest, room=max_tokens)
        asked = Asked(
            helpful=_compared(base, helpful, limit=limit, longest=longest, room=max_tokens),
            harmless=harmful,
            honest=[] if honest is None else truthful_qa(honest, limit=limit),
            harmful=[pair.prompt for pair in harmful],
            benign=_prompts(base, benign, limit=limit, longest=longest - max_tokens),
            max_tokens=max_tokens,
            seed=seed,
        )
        scorer = None if judge is None else _judge(base, judge)
    subjects = sum(map(bool, (asked.helpful, asked.harmless, asked.honest, asked.harmful, asked.benign)))
    with progress("3h", subjects * len(engines)) as said:
        found = three_h(engines, asked, judge=scorer, on_done=lambda stage, subject: said(f"{stage}, {subject}"))
    if plot is not None:
        draw(plot, found)
    if as_json:
        print_json(found)
        return
    table = [
        [f"{subject} {metric}", *("" if v is None else f"{v.value:.3f} ± {v.error:.3f}" for v in values)]
        for subject, metric, values in rows(found)
    ]
    columns(["", *found], table)


def _compared(base: Any, file: Path | None, *, limit: int, longest: int, room: int) -> list[Compared]:
    if file is None:
        return []
    pairs = align.encoded(base, align.read(file, unfit="drop"), longest=longest, unfit="drop").pairs
    fitting = (pair for pair in pairs if len(pair.prompt) + room <= longest)
    found = [Compared(prompt=pair.prompt, chosen=pair.replies[0], rejected=pair.replies[1]) for pair in fitting]
    if not found:
        raise InputError(f"{file}: no pair has a prompt that leaves room for {room} of {longest} tokens")
    return found[:limit]


def _prompts(base: Any, file: Path | None, *, limit: int, longest: int) -> list[Sequence[int]]:
    if file is None:
        return []
    encoded = (align.prompt_ids(tokenizer_of(base), turns[:-1]) for turns in align.instructions(file))
    return list(islice((ids for ids in encoded if len(ids) <= longest), limit))


def _judge(base: Any, directory: Path) -> Judge:
    scored = align.load_scored(base, directory)
    return lambda pairs: scored.rewards([[*prompt, *reply] for prompt, reply in pairs]).tolist()
