"""`lmrs tune`: teach a model a text by any way of delta tuning."""

from collections.abc import Sequence
from math import exp
from pathlib import Path
from typing import Any

import click

import lmrs
from lmrs import align
from lmrs.align.generalise import Tasks
from lmrs.align.sft import Conversation
from lmrs.batch import Dtype
from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.cli.methods import NAMES, method, objective_and_hook
from lmrs.errors import InputError
from lmrs.terminal import losses, waiting
from lmrs.train import AdamW, Cosine, fit, language_modelling
from lmrs.train import neftune as noisy

JUDGED = 200
"""Conversations of a task that was held out, at most, that it is judged by."""

EXAMPLES = """\b
Examples:
  lmrs tune smollm2.gguf speeches.txt --out my-adapter
  lmrs tune gpt2 notes.txt --out my-adapter --rank 16 --targets '*.{q,k,v,o}'
  lmrs tune gpt2 notes.txt --out my-adapter --method adapter --set width=32
  lmrs tune smollm2.gguf alpaca.jsonl sums.jsonl stories.jsonl --instructions --hold-out stories --out my-adapter
  lmrs generate smollm2.gguf 'My fellow citizens' --delta my-adapter
"""


@click.command(epilog=EXAMPLES)
@options.model
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@options.out("Directory to write the adapter to.")
@click.option("--steps", default=100, show_default=True, help="Optimiser steps.")
@click.option("--batch-tokens", default=1024, show_default=True, help="Tokens in a step.")
@click.option("--context", type=int, help="Longest run of tokens seen at once [default: the model's, at most 1024]")
@click.option("--rate", default=2e-4, show_default=True, help="Peak learning rate of AdamW, before a cosine.")
@click.option("--method", "name", type=click.Choice(list(NAMES)), default="lora", show_default=True, help="Which way.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the method; repeatable.")
@click.option("--rank", type=int, help="Columns of the low-rank update [default: the method's].")
@click.option("--alpha", type=float, help="A low-rank update is scaled by alpha / rank [default: the method's].")
@click.option("--targets", help="Which modules, as a pattern of paths [default: the method's].")
@click.option("--instructions", "instructed", is_flag=True, help="FILEs are tasks: learn their answers alone.")
@click.option("--cap", type=click.IntRange(min=1), default=3000, show_default=True, help="Of a task, when mixed.")
@click.option("--temperature", default=1.0, show_default=True, help="Above 1 mixes tasks more evenly.")
@click.option("--neftune", type=float, metavar="ALPHA", help="Noise on the embeddings; 5 is usual.")
@click.option("--hold-out", multiple=True, metavar="TASK", help="Learn nothing of this task, judge by it; repeatable.")
@options.products
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same adapter, bit for bit.")
@options.as_json
def tune(
    *,
    model: Path,
    files: tuple[str, ...],
    out: Path,
    steps: int,
    batch_tokens: int,
    context: int | None,
    rate: float,
    name: str,
    settings: tuple[str, ...],
    rank: int | None,
    alpha: float | None,
    targets: str | None,
    instructed: bool,
    cap: int,
    temperature: float,
    neftune: float | None,
    hold_out: tuple[str, ...],
    dtype: Dtype,
    seed: int,
    as_json: bool,
) -> None:
    """Teach MODEL the text in FILE (- for standard input) by a delta, and write that to --out.

    It learns as it was made to: the next token, hidden ones if it sees both sides (BERT), spans taken out (T5).

    With --instructions each FILE is a task, one JSON object a line (messages, Alpaca, Dolly, ShareGPT, question and
    answer), called by its name without endings; tasks are mixed by size up to a --cap. A task that is held out is
    answered before and after: perplexity of its answers on tasks that tuning never saw.

    What is written is a directory that PEFT reads, too, where it has the method; `lmrs generate --delta` and
    `lmrs ppl --delta` put it on MODEL again. With --json: {"out", "parameters", "losses"}, the loss of each step in
    nats a token, and "held_out": {TASK: {"before", "after"}}, in nats a token of its answers.
    """
    if instructed:
        tasks = _tasks(files)
    elif neftune is not None or hold_out or len(files) != 1:
        raise click.UsageError("several files, --neftune and --hold-out belong to --instructions")
    elif not (text := options.text_of(files[0])):
        raise InputError(f"{files[0]} is empty: there is nothing to learn")
    way = method(name, settings, rank=rank, alpha=alpha, targets=targets, seed=seed)
    with waiting(f"loading {model.name}"):
        base: Any = lmrs.load(model)
        tuned = way(base)
        kept: Tasks = {}
        if instructed:
            if hold_out:
                tasks, kept = align.held_out(tasks, str, clusters=hold_out)
            mixture = align.mixed(tasks, count=_count(tasks, cap), cap=cap, temperature=temperature, seed=seed)
            lessons = align.completion(tuned, [turns for _, turns in mixture], longest=context)
            examples: Any = lessons if neftune is None else noisy(lessons, alpha=neftune, seed=seed)
        else:
            examples = language_modelling(tuned, text, context=context, seed=seed)
        objective, look = objective_and_hook(examples, steps)
        before = {task: _nats(base, turns, context) for task, turns in kept.items()}
    trained = sum(parameter.size for parameter in tuned.named_parameters().values() if parameter.trainable)
    with losses("tuning", steps) as told:
        history = fit(
            objective,
            steps=steps,
            batch_tokens=batch_tokens,
            optimiser=AdamW(learning_rate=rate),
            schedule=Cosine(warmup=min(steps // 10, 20)),
            dtype=dtype,
            seed=seed,
            on_gradient=look,
            on_step=lambda step: told(step.loss, step.tokens),
        )
    lmrs.delta.save(tuned, out)
    carried = {task: {"before": before[task], "after": _nats(tuned, turns, context)} for task, turns in kept.items()}
    if as_json:
        print_json({"out": out, "parameters": trained, "losses": history.losses, "held_out": carried})
        return
    click.echo(f"{out}: {trained:,} parameters; loss {history.losses[0]:.3f} to {history.losses[-1]:.3f}")
    for task, nats in carried.items():
        click.echo(f"{task}, held out: perplexity {exp(nats['before']):.2f} to {exp(nats['after']):.2f}")


def _tasks(files: Sequence[str]) -> Tasks:
    found: dict[str, Sequence[Conversation]] = {}
    for file in files:
        name = Path(file).name.partition(".")[0]
        if name in found:
            raise InputError(f"two files are called {name}, expected a name for each task")
        found[name] = align.instructions(file)
    return found


def _count(tasks: Tasks, cap: int) -> int:
    """As many conversations as there are up to the cap: an epoch of the mixture."""
    return sum(min(len(conversations), cap) for conversations in tasks.values())


def _nats(model: Any, conversations: Sequence[Conversation], longest: int | None) -> float:
    nats, tokens = align.answered(model, conversations[:JUDGED], longest=longest)
    return float(nats.sum() / tokens.sum())
