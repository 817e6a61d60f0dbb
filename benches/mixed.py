"""Decoding with a different LoRA for each request of a batch: `mixed.py MODEL`, or `mixed.py MODEL --peft DIR`.

Tokens a second of a batch of eight on the base, with eight LoRAs (rank 16, q and v), with those and a hundred resident;
or of PEFT's mixed batches (`adapter_names`) on the same model, which DIR has as safetensors.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

import lmrs
from lmrs.backend import native

BATCH, RANK = 8, 16
PROMPT = list(range(100, 132))


def tuned(model: Any, seed: int) -> Any:
    """The model with a LoRA of random weights."""
    found, random = lmrs.delta.LoRA(rank=RANK)(model), np.random.default_rng(seed)
    for parameter in found.named_parameters().values():
        if parameter.trainable:
            values = random.normal(0, 0.02, parameter.shape).astype(np.float32)
            parameter.data = native.array(values).tensor
    return found


def rates(runs: dict[str, Callable[[int], None]], tokens: int) -> dict[str, float]:
    """Tokens a second of a whole batch, what a prompt takes left out: medians of five rounds, each run in turn."""

    def seconds(run: Callable[[int], None], count: int) -> float:
        began = time.perf_counter()
        run(count)
        return time.perf_counter() - began

    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(2)
    for _ in range(5):
        for name, run in runs.items():
            found[name].append(BATCH * (tokens - 1) / (seconds(run, tokens) - seconds(run, 1)))
    return {name: statistics.median(each) for name, each in found.items()}


def tell(found: dict[str, float]) -> None:
    """A line for each run, beside the first."""
    base = next(iter(found.values()))
    for name, rate in found.items():
        click.echo(f"{name}: {rate:.1f} tokens/s, {rate / base:.3f}")


def ours(model: Path, dtype: Any, tokens: int) -> None:
    """The engine's rows."""
    base = lmrs.load(model)

    def engine_of(resident: int) -> lmrs.Engine:
        engine = lmrs.Engine(base, dtype=dtype, share_prefixes=False)
        for number in range(resident):
            engine.load_delta(str(number), tuned(base, number))
        return engine

    def generate(engine: lmrs.Engine, names: list[str | None]) -> Callable[[int], None]:
        def run(count: int) -> None:
            replies = [engine.submit(PROMPT, max_tokens=count, ignore_eos=True, delta=name) for name in names]
            for reply in replies:
                reply.result()

        return run

    few, many, named = engine_of(BATCH), engine_of(100), [str(number) for number in range(BATCH)]
    runs = {
        f"lmrs {dtype}, base": generate(few, [None] * BATCH),
        f"lmrs {dtype}, {BATCH} LoRAs": generate(few, [*named]),
        f"lmrs {dtype}, {BATCH} LoRAs of 100": generate(many, [*named]),
    }
    tell(rates(runs, tokens))


def theirs(directory: Path, tokens: int) -> None:
    """PEFT's."""
    import peft
    import torch
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    ids = torch.tensor([PROMPT] * BATCH)
    mask = torch.ones_like(ids)

    def generate(model: Any, **options: Any) -> Callable[[int], None]:
        def run(count: int) -> None:
            with torch.no_grad():
                lengths = {"min_new_tokens": count, "max_new_tokens": count}
                model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **lengths, **options)

        return run

    tell(rates({"transformers f32, base": generate(base)}, tokens))
    config = peft.LoraConfig(r=RANK, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, config, adapter_name="0")
    for number in range(1, BATCH):
        model.add_adapter(str(number), config)
    model.eval()
    names = [str(number) for number in range(BATCH)]
    tell(rates({f"PEFT f32, {BATCH} LoRAs": generate(model, adapter_names=names)}, tokens))


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--peft", "directory", type=click.Path(path_type=Path), help="The model as safetensors.")
@click.option("--dtype", default="f32", show_default=True)
@click.option("--tokens", default=24, show_default=True)
def main(*, model: Path, directory: Path | None, dtype: str, tokens: int) -> None:
    """See the module."""
    if directory is not None:
        theirs(directory, tokens)
    else:
        ours(model, dtype, tokens)


if __name__ == "__main__":
    main()
