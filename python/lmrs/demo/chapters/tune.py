"""Another voice: a LoRA on a frozen model."""

import dataclasses
import tempfile
from pathlib import Path

import lmrs
from lmrs.delta import LoRA
from lmrs.demo.report import Curve, Sample, Section, Series, Table, smooth
from lmrs.demo.story import Story
from lmrs.engine import Engine
from lmrs.models import LanguageModel
from lmrs.terminal import losses, waiting
from lmrs.train import AdamW, Cosine, clm, fit

LORA = LoRA(rank=8, alpha=16, targets="*.{q,k,v,o,up,gate,down}")


def tune(story: Story) -> tuple[Story, Section]:
    """Tune the model to `away` by LoRA, save and load what was learnt, and compare it with the base on both texts."""
    base, pace = story.model, story.tuning
    tuned = LORA(base)
    parameters = tuned.named_parameters().values()
    trained = sum(parameter.size for parameter in parameters if parameter.trainable)
    whole = sum(parameter.size for parameter in parameters)
    with losses(f"tuning to {story.away.name}", pace.steps) as told:
        history = fit(
            clm(tuned, story.away.train, context=pace.context, tokenizer=story.tokenizer),
            steps=pace.steps,
            batch_tokens=pace.batch_tokens,
            optimiser=AdamW(learning_rate=pace.rate, beta2=0.95),
            schedule=Cosine(warmup=pace.steps // 10),
            on_step=lambda step: told(step.loss, step.tokens),
        )
    loaded, size = _through_a_file(tuned, base)
    engines = {"base": Engine(base, tokenizer=story.tokenizer), "tuned": Engine(loaded, tokenizer=story.tokenizer)}
    rows, samples = [], []
    with waiting("perplexity of both models on both texts"):
        for text in (story.home, story.away):
            scores = [engine.score(text.held_out, protocol="disjoint") for engine in engines.values()]
            rows.append([text.name, *(f"{score.perplexity:,.2f}" for score in scores)])
        for name, engine in engines.items():
            written = engine.generate(story.away.opening, max_tokens=96, temperature=0.8, top_p=0.95, seed=1)
            samples.append(Sample(f"The {name} model (temperature 0.8, top-p 0.95)", story.away.opening, written.text))
    numbers = [float(step.step) for step in history.steps]
    section = Section(
        title="Another voice",
        prose=(
            f"The model was frozen and a LoRA of rank {LORA.rank} put on every projection: {trained:,} numbers, "
            f"{100 * trained / whole:.1f} % of all, learnt {story.away.name} in {history.steps[-1].seconds:.0f} s. "
            f"Saved as a PEFT directory they take {size / 1000:,.0f} kB; the tuned model below was loaded from it."
        ),
        items=[
            Curve(
                "Loss while tuning",
                "step",
                "nats a token",
                [Series("each step", numbers, history.losses), Series("smoothed", numbers, smooth(history.losses))],
            ),
            Table(["perplexity on held-out text", "base", "tuned"], rows),
            *samples,
        ],
    )
    return dataclasses.replace(story, model=loaded), section


def _through_a_file(tuned: LanguageModel, base: LanguageModel) -> tuple[LanguageModel, int]:
    """The model with its delta saved and loaded again, and the bytes of the file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "delta"
        lmrs.delta.save(tuned, path)
        loaded = lmrs.delta.load(base, path)
        return loaded, (path / "adapter_model.safetensors").stat().st_size
