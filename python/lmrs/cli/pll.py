"""`lmrs pll`: sentences under a model that reads both ways."""

from pathlib import Path
from typing import get_args

import click
import numpy as np

import lmrs
from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.engine import Engine
from lmrs.errors import InputError
from lmrs.eval import plot as pictures
from lmrs.eval import pseudo_loglikelihood, score_both_ways
from lmrs.eval.masked import Metric as Masking
from lmrs.eval.outcome import Metric, Outcome, perplexity
from lmrs.eval.rows import texts
from lmrs.models import elmo
from lmrs.terminal import columns, counting, waiting

EXAMPLES = """\b
Examples:
  lmrs pll bert-base-uncased sentences.txt
  lmrs pll bert-base-uncased sentences.jsonl --column sentence --metric original --json
  lmrs pll my-elmo held-out.txt --plot both-ways.png
"""
TOGETHER = 16


@click.command(epilog=EXAMPLES)
@options.model
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--column", default="text", show_default=True, help="Where the text is, in JSON lines and Parquet.")
@click.option(
    "--metric",
    type=click.Choice(get_args(Masking)),
    default="within_word_l2r",
    show_default=True,
    help="What a masked model does not see: the token, or also those after it in its word.",
)
@options.plot
@options.as_json
def pll(*, model: Path, file: Path, column: str, metric: Masking, plot: Path | None, as_json: bool) -> None:
    """Score each text of FILE (a line of .txt, a field of .jsonl or .parquet) by itself, empty ones passed over.

    A masked model gives the pseudo-log-likelihood (Salazar et al. 2020; Kauf & Ivanova 2023), ELMo the log-probability
    of the words between spaces, forwards and backwards. Perplexities are over all texts, with bootstrapped standard
    errors.

    With --json: {"perplexities": {name: {"value", "error"}}, "scores": [...]}, where a score is a PseudoScore
    {"metric", "sum_logprob", "pseudo_perplexity", "token_logprobs"} or a BothWaysScore {"words", "unknown",
    "forward_logprobs", "backward_logprobs"}.
    """
    given = [text for text in texts(file, column=column) if text.strip()]
    if not given:
        raise InputError(f"{file} has no text to score")
    with waiting(f"loading {model.name}"):
        tree = lmrs.load(model)
    if isinstance(tree, elmo.Model):
        with waiting(f"scoring {len(given):,} sentences"):
            both = score_both_ways(tree, [text.split() for text in given])
        counts = np.array([score.words + 1.0 for score in both])
        sums = {
            "forward": np.array([score.forward for score in both]),
            "backward": np.array([score.backward for score in both]),
        }
        scores: list[object] = list(both)
        # ELMo's perplexity is that of both directions together (Peters et al. 2018).
        found = {name: perplexity(-of, counts) for name, of in sums.items()}
        found["both"] = perplexity(-sums["forward"] - sums["backward"], 2 * counts)
    else:
        engine, masked = Engine(tree), []
        with counting(f"scoring {file.name}", len(given)) as told:
            for start in range(0, len(given), TOGETHER):
                masked += pseudo_loglikelihood(engine, given[start : start + TOGETHER], metric=metric)
                told(len(masked))
        counts = np.array([float(len(score.token_logprobs)) for score in masked])
        sums = {"pseudo": np.array([score.sum_logprob for score in masked])}
        scores = list(masked)
        found = {"pseudo": perplexity(-sums["pseudo"], counts)}
    if plot is not None:
        each = {name: Outcome(items=len(given), metrics={"perplexity": one}, each={}) for name, one in found.items()}
        pictures.outcomes(plot, each)
    if as_json:
        print_json({"perplexities": found, "scores": scores})
    else:
        _show(given, sums, counts, found)


def _show(given: list[str], sums: dict[str, np.ndarray], counts: np.ndarray, found: dict[str, Metric]) -> None:
    rows = [
        [text if len(text) <= 48 else f"{text[:47]}…", f"{counts[at]:.0f}", *(f"{of[at]:.3f}" for of in sums.values())]
        for at, text in enumerate(given)
    ]
    columns(["text", "tokens", *(f"log p {name}" for name in sums)], rows)
    columns(["perplexity", ""], [[name, f"{one.value:.4f} ± {one.error:.4f}"] for name, one in found.items()])
