"""The second half of a language model's life, from nothing: pretrain → SFT → reward model → PPO, and → DPO.

    python examples/align_pipeline.py hh-rlhf.harmless-base.test.jsonl.gz runs/hh

Preferences in HH's or TRL's shape are all it needs. A run that was killed goes on where it was, to the same bits. It
ends with the 3H table of all stages, its picture, and the curves as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import lmrs
from lmrs import align, pretrain, train
from lmrs.eval.threeh import Asked, Compared, draw, rows, three_h
from lmrs.models import save

PROMPT = 160
SIZE = pretrain.Size(layers=2, width=128, context=256, vocabulary=1024)
STEPS = {"pretrained": 120, "sft": 30, "reward": 70, "dpo": 80, "ppo": 40}
RATES = {"pretrained": 3e-3, "sft": 1e-3, "reward": 1.5e-3, "dpo": 1e-3, "ppo": 1e-3}


def plain(preference: align.Preference) -> align.Preference:
    """The last words before the reply, as HH writes them: a model this small remembers no more."""
    turns: Any = preference.prompt
    said = "".join(f"\n\n{'Assistant' if t['role'] == 'assistant' else 'Human'}: {t['content']}" for t in turns[-1:])
    prompt = f"{said}\n\nAssistant:"[-PROMPT:]
    return align.Preference(prompt=prompt, chosen=f" {preference.chosen}", rejected=f" {preference.rejected}")


def run(file: Path, out: Path, *, steps: dict[str, int] = STEPS, held_out: int = 300, seeds: int = 3) -> Any:
    """All stages, each saved in ``out``; returns the outcomes of 3H by stage."""
    known = [plain(p) for p in align.read(file, unfit="drop") if p.chosen.strip() and p.rejected.strip()]
    judged, learnt = known[:held_out], known[held_out:]
    out.mkdir(parents=True, exist_ok=True)
    told = out / "curves.json"
    curves: dict[str, dict[str, Any]] = json.loads(told.read_text()) if told.exists() else {}

    def note(stage: str, step: int, numbers: Any) -> None:
        curves.setdefault(stage, {})[str(step)] = dict(numbers)
        told.write_text(json.dumps(curves))
        print(f"{stage} {step}", end="\r", file=sys.stderr)

    def fit(stage: str, objective: Any, batch_tokens: int = 4096) -> None:
        def stepped(step: train.Step) -> None:
            more = objective.told.drain() if hasattr(objective, "told") else {}
            note(stage, step.step, {"loss": step.loss, **more})

        train.fit(objective, steps=steps[stage], batch_tokens=batch_tokens, on_step=stepped, save_every=20, resume=True,
                  optimiser=train.AdamW(learning_rate=RATES[stage], beta2=0.95, weight_decay=0.1),
                  schedule=train.Cosine(warmup=steps[stage] // 10),
                  checkpoints=out / "checkpoints" / stage)  # fmt: skip

    texts = [p.prompt + reply for p in learnt for reply in (p.chosen, p.rejected)]  # type: ignore[operator]
    task = pretrain.task("gpt2", texts, texts[:1], size=SIZE)
    fit("pretrained", task.objective, 2048)
    task.save(out / "pretrained")
    model: Any = lmrs.load(out / "pretrained")
    tokenizer = lmrs.Tokenizer.load(out / "pretrained")
    pairs, tests = (align.encoded(model, part, longest=224, unfit="drop").pairs for part in (learnt, judged))

    fit("sft", train.NextToken(model, [pair.chosen for pair in pairs]))
    save(model, out / "sft")
    tokenizer.save(out / "sft")

    judge = align.Scored(lmrs.load(out / "pretrained"), pooling="mean")
    fit("reward", align.reward(judge, pairs, setting=align.BradleyTerry(centering=0.01)))

    preferred: Any = lmrs.load(out / "sft")
    fit("dpo", align.dpo(preferred, pairs))
    prompts = [pair.prompt for pair in pairs]
    setting = align.PPO(prompts=16, max_tokens=32, epochs=2, minibatches=2, kl_target=4.0, kl_horizon=200)
    for seed in range(seeds):
        pleasing: Any = lmrs.delta.LoRA(rank=16, targets="*.{q,k,v,o,up,down}", seed=seed)(lmrs.load(out / "sft"))
        align.learn(align.ppo(pleasing, prompts, align.by_model(judge), setting=setting), iterations=steps["ppo"],
                    optimiser=train.AdamW(learning_rate=RATES["ppo"], eps=1e-5), seed=seed, resume=True,
                    on_iteration=lambda i, seed=seed: note(f"ppo {seed}", i.number, i.metrics),
                    checkpoints=out / "checkpoints" / f"ppo {seed}")  # fmt: skip

    stages = {"base": lmrs.load(out / "pretrained"), "sft": lmrs.load(out / "sft"), "ppo": pleasing, "dpo": preferred}
    compared = [Compared(prompt=p.prompt, chosen=p.replies[0], rejected=p.replies[1]) for p in tests]
    asked = Asked(harmless=compared, harmful=[pair.prompt for pair in compared], max_tokens=32)
    found = three_h({name: lmrs.Engine(stage, tokenizer=tokenizer) for name, stage in stages.items()}, asked,
                    judge=lambda said: judge.rewards([[*p, *r] for p, r in said]).tolist())  # fmt: skip
    note("reward, held out", steps["reward"], align.reward(judge, tests).judged())
    draw(out / "3h.png", found)
    return found


if __name__ == "__main__":
    for subject, metric, values in rows(run(Path(sys.argv[1]), Path(sys.argv[2]))):
        print(f"{subject} {metric}".ljust(20), *(f"{v.value:9.3f} ± {v.error:.3f}" for v in values if v is not None))
