"""Pictures of what was measured: tasks with their errors, and the surprisal of words."""

import os
from collections.abc import Mapping, Sequence

from lmrs import pictures
from lmrs.errors import InputError
from lmrs.eval.outcome import Outcome
from lmrs.eval.surprisal import WordSurprisal

LINE = 16
"""Words in a line of the picture of a text."""


def outcomes(path: str | os.PathLike[str], found: Mapping[str, Outcome]) -> None:
    """Write a picture (PNG, SVG or PDF) with a panel for each metric and a bar for each name.

    Whiskers are 95 % of the bootstrap, 1.96 standard errors either way. Raises InputError without matplotlib
    (``pip install lmrs[plot]``) or if there is nothing to draw.
    """
    if not found:
        raise InputError("there is no outcome to draw")
    metrics = list(dict.fromkeys(name for outcome in found.values() for name in outcome.metrics))
    figure = pictures.figure(1.5 + 3.5 * len(metrics), 1.2 + 0.3 * len(found))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    places = range(len(found))
    for panel, metric in zip(panels, metrics, strict=True):
        there = [
            (at, outcome.metrics[metric]) for at, outcome in enumerate(found.values()) if metric in outcome.metrics
        ]
        values = [one.value for _, one in there]
        panel.barh([at for at, _ in there], values, height=0.7, color="0.8")
        panel.errorbar(
            values,
            [at for at, _ in there],
            xerr=[1.96 * one.error for _, one in there],
            fmt="o",
            color="tab:blue",
            markersize=4,
            capsize=3,
        )
        panel.set_xlabel(metric)
        if metric.startswith("acc"):
            panel.set_xlim(0, 1)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(list(places), list(found))
    panels[0].set_ylim(len(found) - 0.4, -0.6)
    items = sorted({outcome.items for outcome in found.values()})
    counted = f"{items[0]:,}" if len(items) == 1 else f"{items[0]:,} to {items[-1]:,}"
    figure.suptitle(f"{counted} items, with 95 % of the bootstrap", fontsize=10)
    pictures.save(figure, path)


def surprisals(path: str | os.PathLike[str], words: Sequence[WordSurprisal]) -> None:
    """Write a picture of a text: a bar of nats over each word, without the correction beside it, in lines of 16.

    Raises InputError without matplotlib (``pip install lmrs[plot]``) or if there is no word.
    """
    if not words:
        raise InputError("there is no word to draw")
    lines = [words[start : start + LINE] for start in range(0, len(words), LINE)]
    figure = pictures.figure(11, 0.8 + 1.6 * len(lines))
    most = 1.1 * max(max(word.surprisal, word.uncorrected) for word in words)
    for panel, line in zip(figure.subplots(len(lines), 1, squeeze=False)[:, 0], lines, strict=True):
        places = range(len(line))
        panel.bar(places, [word.surprisal for word in line], width=0.7, color="tab:blue", label="of the word")
        panel.plot(places, [word.uncorrected for word in line], "_", color="0.3", markersize=14, label="of its tokens")
        panel.set_xticks(list(places), [word.word for word in line], fontsize=8, rotation=20, parse_math=False)
        panel.set(xlim=(-0.6, LINE - 0.4), ylim=(0, most), ylabel="nats")
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    pictures.save(figure, path)
