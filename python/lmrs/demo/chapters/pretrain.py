"""From noise to English: a small GPT trained from scratch."""

import dataclasses

from lmrs.demo.report import Curve, Sample, Section, Series, Table, smooth
from lmrs.demo.story import Story
from lmrs.engine import Engine
from lmrs.terminal import losses, waiting
from lmrs.train import AdamW, Cosine, clm, fit


def pretrain(story: Story) -> tuple[Story, Section]:
    """Train the model on `home`, and tell the loss, the perplexity before and after, and a text it writes."""
    model, pace = story.model, story.learning
    parameters = sum(parameter.size for parameter in model.named_parameters().values())
    engine = Engine(model, tokenizer=story.tokenizer)
    with waiting("perplexity before training"):
        before = engine.score(story.home.held_out, protocol="disjoint")
    with losses(f"training on {story.home.name}", pace.steps) as told:
        history = fit(
            clm(model, story.home.train, context=pace.context, tokenizer=story.tokenizer),
            steps=pace.steps,
            batch_tokens=pace.batch_tokens,
            optimiser=AdamW(learning_rate=pace.rate, beta2=0.95, weight_decay=0.1),
            schedule=Cosine(warmup=pace.steps // 20, floor=0.1),
            on_step=lambda step: told(step.loss, step.tokens),
        )
    trained = Engine(model, tokenizer=story.tokenizer)
    with waiting("perplexity after training"):
        after = trained.score(story.home.held_out, protocol="disjoint")
        written = trained.generate(story.home.opening, max_tokens=160, temperature=0.8, top_p=0.95, seed=1)
    numbers = [float(step.step) for step in history.steps]
    seen = sum(step.tokens for step in history.steps)
    section = Section(
        title="A language model from scratch",
        prose=(
            f"A GPT of {parameters:,} parameters, all drawn at random, read {seen:,} tokens of {story.home.name} in "
            f"{history.steps[-1].seconds:.0f} seconds. It is judged by the last tenth of the text, which it never saw: "
            "perplexity is how many tokens it hesitates between, on average."
        ),
        items=[
            Curve(
                "Loss while training",
                "step",
                "nats a token",
                [Series("each step", numbers, history.losses), Series("smoothed", numbers, smooth(history.losses))],
            ),
            Table(
                ["held-out text", "perplexity before", "after", "bits a byte before", "after"],
                [
                    [
                        story.home.name,
                        f"{before.perplexity:,.1f}",
                        f"{after.perplexity:,.1f}",
                        f"{before.bits_per_byte:.2f}",
                        f"{after.bits_per_byte:.2f}",
                    ]
                ],
            ),
            Sample("What it writes (temperature 0.8, top-p 0.95)", story.home.opening, written.text),
        ],
    )
    return dataclasses.replace(story, model=model), section
