"""A reward that can be checked: sums out of GSM8K's worked answers, learnt a little from examples, then by GRPO alone.

    python examples/grpo_sums.py gsm8k.train.jsonl.gz runs/sums

Writers of GSM8K marked every computation, `<<48/2=24>>`. A small model reads `48/2=` and is rewarded for `24`. Some of
the sums are shown with their results (SFT), others are only asked (GRPO), and a last part is asked before and after.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import lmrs
from lmrs import align, train
from lmrs.align.preferences import objects
from lmrs.initialise import initialise
from lmrs.models import gpt2

SUM = re.compile(r"<<(\d{1,4}[+*/-]\d{1,4})=(\d{1,5})>>")
SHOWN, HELD_OUT = 2000, 300


def sums(path: Path) -> list[tuple[str, str]]:
    """Every sum once, with its result, in the order they first come."""
    found = [match for item in objects(path) for match in SUM.findall(str(item["answer"]))]
    return [(f"{asked}=", result) for asked, result in dict(found).items()]


def run(file: Path, out: Path, *, steps: int = 600, iterations: int = 80) -> dict[str, Any]:
    """SFT, then GRPO; returns what is known of each iteration and the accuracy before and after, and writes it."""
    known = sums(file)
    held_out, shown, asked = known[:HELD_OUT], known[HELD_OUT : HELD_OUT + SHOWN], known[HELD_OUT + SHOWN :]
    out.mkdir(parents=True, exist_ok=True)
    # Bytes alone: a tokenizer that joins digits would hide what there is to learn.
    tokenizer = lmrs.Tokenizer.train(["0"], vocab_size=257)
    config = gpt2.Config(vocabulary=len(tokenizer), width=128, layers=2, heads=4, context=32, inner=512)
    model = initialise(gpt2.Model(config), seed=0)

    def right(policy: Any) -> float:
        engine = lmrs.Engine(policy, tokenizer=tokenizer)
        replies = engine.generate([prompt for prompt, _ in held_out], max_tokens=7)
        return sum(reply.text == result for reply, (_, result) in zip(replies, held_out, strict=True)) / len(held_out)

    train.fit(train.sft(model, shown, tokenizer=tokenizer), steps=steps, batch_tokens=2048, resume=True,
              optimiser=train.AdamW(learning_rate=2e-3, beta2=0.95), schedule=train.Cosine(warmup=20),
              checkpoints=out / "sft", save_every=50)  # fmt: skip
    before = right(model)
    prompts = [list(tokenizer.encode(prompt).ids) for prompt, _ in asked]
    curve: list[dict[str, float]] = []

    def reward(samples: Any) -> list[float]:
        return [float(sample.ended and sample.text == asked[sample.number][1]) for sample in samples]

    setting = align.GRPO(prompts=32, group=8, max_tokens=7, epsilon_high=0.28)
    align.learn(align.grpo(model, prompts, reward, setting=setting, tokenizer=tokenizer), iterations=iterations,
                optimiser=train.AdamW(learning_rate=3e-4, eps=1e-5), checkpoints=out / "grpo", resume=True,
                on_iteration=lambda i: curve.append({"iteration": i.number, **i.metrics}))  # fmt: skip
    found = {"sums": len(known), "held out before": before, "held out after": right(model), "curve": curve}
    (out / "sums.json").write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    said = run(Path(sys.argv[1]), Path(sys.argv[2]))
    for first in range(0, len(said["curve"]), 10):
        rewards = [step["reward"] for step in said["curve"][first : first + 10]]
        print(f"iteration {first + 1:3}: reward {sum(rewards) / len(rewards):.3f}")
    print(f"held out, greedy: {said['held out before']:.3f} before, {said['held out after']:.3f} after GRPO")
