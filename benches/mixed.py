"""Decoding with a different LoRA for each request of a batch: `mixed.py MODEL [--peft DIR]`.

Tokens a second of a batch of eight on the base, with eight LoRAs (rank 16, q and v), with those and a hundred resident;
and of PEFT's mixed batches (`adapter_names`) on the same model as transformers loads it, if DIR has it as safetensors.
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


def rate(run: Callable[[int], None], tokens: int) -> float:
    """Tokens a second of a whole batch, what a prompt takes left out: the median of three."""

    def seconds(count: int) -> float:
        began = time.perf_counter()
        run(count)
        return time.perf_counter() - began

    run(2)
    return statistics.median(BATCH * (tokens - 1) / (seconds(tokens) - seconds(1)) for _ in range(3))


def ours(model: Path, dtype: Any, tokens: int) -> None:
    """The engine's rows."""
    base = lmrs.load(model)
    engine = lmrs.Engine(base, dtype=dtype, share_prefixes=False)

    def generate(names: list[str | None]) -> Callable[[int], None]:
        def run(count: int) -> None:
            replies = [engine.submit(PROMPT, max_tokens=count, ignore_eos=True, delta=name) for name in names]
            for reply in replies:
                reply.result()

        return run

    plain = rate(generate([None] * BATCH), tokens)
    click.echo(f"lmrs {dtype}, base: {plain:.1f} tokens/s")
    for resident in (BATCH, 100):
        for number in range(len(engine.deltas), resident):
            engine.load_delta(str(number), tuned(base, number))
        found = rate(generate([str(number) for number in range(BATCH)]), tokens)
        click.echo(f"lmrs {dtype}, {BATCH} LoRAs, {resident} resident: {found:.1f} tokens/s, {found / plain:.3f}")


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

    plain = rate(generate(base), tokens)
    click.echo(f"transformers f32, base: {plain:.1f} tokens/s")
    config = peft.LoraConfig(r=RANK, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, config, adapter_name="0")
    for number in range(1, BATCH):
        model.add_adapter(str(number), config)
    model.eval()
    found = rate(generate(model, adapter_names=[str(number) for number in range(BATCH)]), tokens)
    click.echo(f"PEFT f32, {BATCH} LoRAs: {found:.1f} tokens/s, {found / plain:.3f}")


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--peft", "directory", type=click.Path(path_type=Path), help="The model as safetensors.")
@click.option("--dtype", default="f32", show_default=True)
@click.option("--tokens", default=24, show_default=True)
def main(*, model: Path, directory: Path | None, dtype: str, tokens: int) -> None:
    """See the module."""
    ours(model, dtype, tokens)
    if directory is not None:
        theirs(directory, tokens)


if __name__ == "__main__":
    main()
