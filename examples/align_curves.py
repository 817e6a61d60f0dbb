"""The curves of a run of align_pipeline.py: `python examples/align_curves.py runs/hh/curves.json curves.png`."""

import json
import sys
from pathlib import Path

from PIL import Image

from lmrs import pictures

PANELS = (
    ("pretrained", "loss", "pretraining: loss"),
    ("sft", "loss", "SFT: loss"),
    ("reward", "accuracy", "reward model: accuracy"),
    ("dpo", "rewards/accuracies", "DPO: accuracy"),
    ("dpo", "rewards/margins", "DPO: margin"),
    ("ppo", "objective/scores", "PPO: score"),
    ("ppo", "objective/kl", "PPO: KL, nats a reply"),
    ("ppo", "objective/kl_coef", "PPO: coefficient"),
)
WINDOW = 8


def main(file: Path, picture: Path) -> None:
    """A panel for each of PANELS: every step thin, their running mean thick, a colour a seed."""
    curves = json.loads(file.read_text())
    figure = pictures.figure(7.5, 3.2)
    for panel, (stage, metric, title) in zip(figure.subplots(2, 4).reshape(-1), PANELS, strict=True):
        runs = [name for name in sorted(curves) if name == stage or name.startswith(f"{stage} ")]
        for colour, name in zip(("tab:blue", "tab:orange", "tab:green"), runs, strict=False):
            steps = sorted(curves[name], key=int)
            values = [curves[name][step][metric] for step in steps]
            means = [
                sum(part) / len(part) for at in range(len(values)) if (part := values[max(0, at - WINDOW + 1) : at + 1])
            ]
            panel.plot([int(step) for step in steps], values, color=colour, alpha=0.25, linewidth=0.5)
            panel.plot([int(step) for step in steps], means, color=colour, linewidth=1)
        panel.set_title(title, fontsize=6)
        panel.tick_params(labelsize=5, length=2)
        panel.spines[["top", "right"]].set_visible(False)
    pictures.save(figure, picture)
    if picture.suffix == ".png":
        # Few colours are enough, and a third of the bytes.
        Image.open(picture).convert("RGB").quantize(32).save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
