"""Pictures of a law: the runs beside it, and its valleys of equal compute."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmrs import pictures
from lmrs.scaling.law import Law, Plan
from lmrs.scaling.runs import Runs


def draw(path: str | os.PathLike[str], runs: Runs, law: Law, *, plans: Sequence[Plan] = ()) -> None:
    """Write a picture (PNG, SVG or PDF, by its name) of the loss by tokens and of the loss by size at equal compute.

    ``plans`` are marked where they lie. Raises InputError without matplotlib (``pip install lmrs[plot]``).
    """
    figure = pictures.figure(11, 4.5)
    by_tokens, by_size = figure.subplots(1, 2)
    colour = _colours(len(set(runs.parameters.tolist())))
    for index, size in enumerate(sorted(set(runs.parameters.tolist()))):
        chosen = runs.parameters == size
        line = np.geomspace(runs.tokens.min(), runs.tokens.max() * 3, 60)
        by_tokens.plot(line, law.loss(size, line), color=colour(index), linewidth=1)
        by_tokens.plot(runs.tokens[chosen], runs.loss[chosen], "o", color=colour(index), label=f"N = {size:.3g}")
    by_tokens.set(xscale="log", yscale="log", xlabel="training tokens D", ylabel="loss, nats a token")
    by_tokens.set_title("Runs and the law through them")
    if len(set(runs.parameters.tolist())) <= 10:
        by_tokens.legend(frameon=False, fontsize=8)
    computes = 6 * runs.parameters * runs.tokens
    sizes = np.geomspace(runs.parameters.min() / 3, runs.parameters.max() * 10, 120)
    for compute in np.geomspace(computes.min(), computes.max() * 10, 5):
        by_size.plot(sizes, law.iso_flop(compute, sizes), linewidth=1, color="0.6")
        best = law.plan(compute)
        by_size.plot(best.parameters, best.loss, ".", color="0.3")
        by_size.annotate(f"{compute:.0e}", (sizes[-1], law.iso_flop(compute, sizes[-1:])[0]), fontsize=7, color="0.4")
    for plan in plans:
        by_size.plot(plan.parameters, plan.loss, "*", markersize=12, label=f"C = {plan.compute:.3g}")
    by_size.set(xscale="log", yscale="log", xlabel="parameters N", ylabel="loss, nats a token")
    by_size.set_title("Equal compute, operations 6·N·D")
    if plans:
        by_size.legend(frameon=False, fontsize=8)
    pictures.save(figure, path)


def _colours(count: int) -> Any:
    from matplotlib import colormaps

    return lambda index: colormaps["viridis"](0.9 * index / max(1, count - 1))
