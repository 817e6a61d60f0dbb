"""Better than its own: DPO between what was written and what the model writes."""

import dataclasses

from lmrs import align
from lmrs.align import Pair, Preference
from lmrs.delta import LoRA
from lmrs.demo.report import Curve, Sample, Section, Series, Table, smooth
from lmrs.demo.story import Story
from lmrs.engine import Engine
from lmrs.terminal import losses, waiting
from lmrs.train import AdamW, Cosine, Step, fit

LORA = LoRA(rank=8, alpha=16, targets="*.{q,k,v,o,up,gate,down}", seed=1)
PROMPT, REPLY = 24, 32
MOST, HELD_OUT = 512, 160


def prefer(story: Story) -> tuple[Story, Section]:
    """Prefer the true continuations of `away` to the model's own (Chen et al. 2024), and judge by passages held out."""
    base, pace = story.model, story.preferring
    engine = Engine(base, tokenizer=story.tokenizer)
    count = max(8, min(MOST, pace.steps * pace.batch_tokens // (2 * (PROMPT + REPLY))))
    with waiting("what the model writes in place of what was written"):
        learnt = _pairs(story, engine, story.away.train, count)
        judged = _pairs(story, engine, story.away.held_out, min(HELD_OUT, count))
    policy = LORA(base.frozen())
    objective = align.dpo(policy, learnt, reference=base)
    held_out = align.dpo(policy, judged, reference=base)
    margins: list[float] = []
    with losses("preferring what was written", pace.steps, unit="pairs") as told:

        def stepped(step: Step) -> None:
            margins.append(objective.told.drain()["rewards/margins"])
            told(step.loss, step.tokens)

        history = fit(
            objective,
            steps=pace.steps,
            batch_tokens=pace.batch_tokens,
            optimiser=AdamW(learning_rate=pace.rate, beta2=0.95),
            schedule=Cosine(warmup=pace.steps // 10),
            on_step=stepped,
        )
    with waiting("preferences on passages held out"):
        found = held_out.judged()
        tuned = Engine(policy, tokenizer=story.tokenizer)
        scores = [e.score(story.away.held_out, protocol="disjoint") for e in (engine, tuned)]
        written = tuned.generate(story.away.opening, max_tokens=96, temperature=0.8, top_p=0.95, seed=1)
    right = found["rewards/accuracies"]
    numbers = [float(step.step) for step in history.steps]
    section = Section(
        title="What was written, rather than what it writes",
        prose=(
            f"{count} passages of {story.away.name} were begun, and the model went on by itself. In "
            f"{history.steps[-1].seconds:.0f} s DPO taught a second LoRA to prefer what was written; no reward model "
            f"is needed. It is judged by {len(judged)} passages held out: how often the tuned model prefers the text "
            "to the imitation, relative to the one before. Half is chance. Of fewer passages, or in several rounds, it "
            "learns them by heart, and what is held out gets no better."
        ),
        items=[
            Curve(
                "How far the replies' implicit rewards are apart",
                "step",
                "margin",
                [Series("each step", numbers, margins), Series("smoothed", numbers, smooth(margins))],
            ),
            Table(
                ["held-out passages", "before", "after DPO"],
                [
                    ["preference accuracy", "0.50", f"{right:.2f} ± {(right * (1 - right) / len(judged)) ** 0.5:.2f}"],
                    ["margin", "0.00", f"{found['rewards/margins']:.2f}"],
                    ["perplexity of the text", *(f"{score.perplexity:,.2f}" for score in scores)],
                ],
            ),
            Sample("After DPO (temperature 0.8, top-p 0.95)", story.away.opening, written.text),
        ],
    )
    return dataclasses.replace(story, model=policy), section


def _pairs(story: Story, engine: Engine, text: str, count: int) -> list[Pair]:
    """Passages spread over ``text``: how each goes on, and how the model would go on."""
    ids = story.tokenizer.encode(text, add_special_tokens=False).ids
    stride = max(1, (len(ids) - PROMPT - REPLY) // count)
    passages = [ids[at : at + PROMPT + REPLY] for at in range(0, stride * count, stride)]
    prompts = [list(passage[:PROMPT]) for passage in passages]
    drawn = engine.generate(prompts, max_tokens=REPLY, temperature=1.0, seed=list(range(len(prompts))))
    preferences = [
        Preference(prompt=prompt, chosen=passage[PROMPT:], rejected=own.tokens)
        for prompt, passage, own in zip(prompts, passages, drawn, strict=True)
    ]
    return align.encoded(story.model, preferences, unfit="drop").pairs
