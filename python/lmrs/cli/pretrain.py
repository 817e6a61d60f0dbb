"""`lmrs pretrain`: a model from scratch, its tokenizer too."""

import math
from importlib import import_module
from pathlib import Path
from typing import get_args

import click

from lmrs import pretrain as recipes
from lmrs.batch import Dtype
from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.errors import InputError
from lmrs.terminal import facts, losses, stages, waiting
from lmrs.tokenizer import Tokenizer
from lmrs.train import AdamW, Cosine, fit, loggers

EXAMPLES = """\b
Examples:
  lmrs pretrain --family gpt2 --data shakespeare.txt -o my-gpt
  lmrs pretrain --family bert --data corpus.jsonl --layers 6 --width 256 --steps 5000 -o my-bert
  lmrs pretrain --family gpt2 --data corpus.shards -o my-gpt
  lmrs pretrain --family t5 --data corpus.txt --checkpoints runs/t5 --resume -o my-t5
"""


@click.command(epilog=EXAMPLES)
@click.option("--family", type=click.Choice(get_args(recipes.Family)), required=True, help="Which paradigm.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Text or shards, see above.")
@click.option("--column", default="text", show_default=True, help="The field of JSONL or Parquet that holds the text.")
@options.out("Directory to write the model to.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="A tokenizer to use [default: one is trained]")
@click.option("--vocab-size", default=4096, show_default=True, help="Of the tokenizer that is trained; ELMo's words.")
@click.option("--layers", default=4, show_default=True, help="Blocks; LSTMs in each direction of ELMo.")
@click.option("--width", default=128, show_default=True, help="Of the hidden states, a multiple of 32.")
@click.option("--context", default=128, show_default=True, help="The most tokens of an example.")
@click.option("--steps", default=500, show_default=True, help="Optimiser steps.")
@click.option("--batch-tokens", default=2048, show_default=True, help="Tokens in a step.")
@click.option("--rate", default=2e-3, show_default=True, help="Peak learning rate of AdamW, before a cosine.")
@click.option("--device", help="cpu or cuda: train by torch there [default: by lmrs on the CPU]")
@options.products
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same model, bit for bit.")
@click.option("--checkpoints", type=click.Path(path_type=Path), help="Directory to save the run in as it goes.")
@click.option("--save-every", default=100, show_default=True, help="Steps between saves.")
@click.option("--resume", is_flag=True, help="Go on from the latest checkpoint.")
@click.option("--csv", "table", type=click.Path(path_type=Path), help="File to write a line a step to.")
@click.option("--curve", type=click.Path(path_type=Path), help="Picture of the loss, drawn as it goes.")
@options.as_json
def pretrain(
    *,
    family: recipes.Family,
    data: Path,
    column: str,
    out: Path,
    tokenizer: Path | None,
    vocab_size: int,
    layers: int,
    width: int,
    context: int,
    steps: int,
    batch_tokens: int,
    rate: float,
    device: str | None,
    dtype: Dtype,
    seed: int,
    checkpoints: Path | None,
    save_every: int,
    resume: bool,
    table: Path | None,
    curve: Path | None,
    as_json: bool,
) -> None:
    """Train a model from random weights on the text of --data and write it, with its tokenizer, to -o.

    --data is a .txt, .jsonl or .parquet file, a dataset that `save_to_disk` wrote, or what `lmrs data pack` wrote,
    which may be larger than memory.
    gpt2 predicts the next token, bert masked tokens, t5 spans that were cut out, elmo the next word from both sides.
    The last tenth of the data is held out and judged before and after: the mean loss in nats, and its exponential, for
    gpt2 and elmo the perplexity.
    `torchrun --nproc-per-node 2 -m lmrs pretrain --device cpu …` shares each step among processes.
    With --json: {"family", "parameters", "out", "held_out_before", "held_out", "perplexity", "losses"}.
    """
    if resume and checkpoints is None:
        raise InputError("--resume needs --checkpoints: the directory of the run to go on with")
    size = recipes.Size(layers=layers, width=width, context=context, vocabulary=vocab_size)
    train, judged = recipes.documents(data, column=column)
    chosen = None if tokenizer is None else Tokenizer.load(tokenizer)
    rank = import_module("lmrs.backend.torch").workers()[0] if device else 0
    with stages() as progress:
        task = recipes.task(
            family, train, judged, size=size, tokenizer=chosen, seed=seed, device=device, progress=progress
        )
    with waiting("judging the held-out text"):
        before = recipes.mean_loss(task.held_out)
    extra = [loggers.to_csv(table)] if table and not rank else []
    extra += [loggers.to_curve(curve)] if curve and not rank else []
    with losses(f"pretraining {family}", steps) as told:
        history = fit(
            task.objective,
            steps=steps,
            batch_tokens=batch_tokens,
            optimiser=AdamW(learning_rate=rate, beta2=0.98, weight_decay=0.01),
            schedule=Cosine(warmup=steps // 20, floor=0.1),
            dtype=dtype,
            seed=seed,
            checkpoints=checkpoints,
            save_every=save_every,
            resume=resume,
            on_step=loggers.each(lambda step: told(step.loss, step.tokens), *extra),
        )
    with waiting("judging the held-out text"):
        after = recipes.mean_loss(task.held_out)
    if rank:
        # All processes have the same model; the first writes and tells.
        return
    task.save(out)
    parameters = sum(parameter.size for parameter in task.model.named_parameters().values())
    if as_json:
        found = {"family": family, "parameters": parameters, "out": str(out), "held_out_before": before}
        print_json(found | {"held_out": after, "perplexity": math.exp(after), "losses": history.losses})
        return
    shown = {"parameters": parameters, "held out before": f"{before:.4f} nats", "held out": f"{after:.4f} nats"}
    facts(shown | {"its exponential": f"{math.exp(after):,.2f}", "written to": str(out)})
