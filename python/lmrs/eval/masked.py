"""The pseudo-log-likelihood of a text under a masked language model (Salazar et al. 2020; Kauf & Ivanova 2023)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lmrs.batch import Batch
from lmrs.errors import ConfigError, InputError
from lmrs.eval.plans import batches, run

if TYPE_CHECKING:
    from lmrs.engine import Engine

Metric = Literal["original", "within_word_l2r"]


@dataclass(frozen=True, eq=False, kw_only=True)
class PseudoScore:
    """``sum_logprob``, in nats, is the sum of ``token_logprobs [n]``, float32, of the ``n`` tokens that are scored.

    Numbers of one ``metric`` compare; they are no log-probability of the text, and ``exp(-sum_logprob / n)`` is its
    ``pseudo_perplexity``.
    """

    metric: Metric
    sum_logprob: float
    pseudo_perplexity: float
    token_logprobs: npt.NDArray[np.float32]


def fills_masks(engine: "Engine") -> bool:
    """Whether the engine's model is a masked one."""
    model = engine.model
    both = any(getattr(module, "causal", True) is False for _, module in model.named_modules())
    return both and not hasattr(model, "encode")


def _expect_masked(engine: "Engine") -> None:
    if not fills_masks(engine):
        raise ConfigError(f"a {engine.config.family} predicts tokens in order: it fills no masks")


def pseudo_loglikelihood(engine: "Engine", texts: Sequence[str], *, metric: Metric = "original") -> list[PseudoScore]:
    """``Σ_t log p(x_t | the text with x_t masked)`` over the tokens of each text, special tokens apart.

    ``original`` masks the token alone (Salazar et al. 2020); ``within_word_l2r`` also those after it in its word, so
    that a rare word of several pieces is not likely by its own rest (Kauf & Ivanova 2023). Each token is one run over
    its text. Raises InputError for a text without tokens, one longer than the context, or an unknown metric;
    ConfigError if the model fills no masks.
    """
    _expect_masked(engine)
    mask = engine.tokenizer.mask_id
    if mask is None:
        raise ConfigError("the tokenizer has no mask token")
    cut = []
    for text in texts:
        encoding = engine.tokenizer.encode(text)
        scored = [at for at, special in enumerate(encoding.special_tokens_mask) if not special]
        if not scored:
            raise InputError(f"the text {text!r} has no token to score")
        words = [encoding.word_ids[at] for at in scored]
        groups = [number if word is None else word for number, word in zip(range(-len(words), 0), words, strict=True)]
        cut.append((encoding.ids, scored, groups))
    return pseudo_scores(engine, cut, mask=mask, metric=metric)


def pseudo_scores(
    engine: "Engine",
    texts: Sequence[tuple[Sequence[int], Sequence[int], Sequence[int]]],
    *,
    mask: int,
    metric: Metric = "original",
) -> list[PseudoScore]:
    """:func:`pseudo_loglikelihood` of texts that are ids, places among them that are scored, and the word of each."""
    if metric not in get_args(Metric):
        raise InputError(f"metric is {metric!r}, expected one of {', '.join(get_args(Metric))}")
    model, limit = engine.model, engine.config.context
    _expect_masked(engine)

    def scored_rows(batch: Batch) -> Any:
        states = model.hidden(batch)  # refuses, by name, where the file held no head
        return model.head.logprob(states, batch.labels)

    plan = engine.planned(scored_rows)

    def sized(length: int) -> Callable[[int], int]:
        return lambda _: length

    found = []
    for ids, scored, words in texts:
        if limit is not None and len(ids) > limit:
            raise InputError(f"a text has {len(ids)} tokens, expected at most the model's context, {limit}")
        values: list[npt.NDArray[np.float32]] = []
        for batch in batches(range(len(scored)), sized(len(ids))):
            rows = np.tile(np.asarray(ids, np.int64), (len(batch), 1))
            labels = np.full(rows.shape, -1)
            for row, turn in enumerate(batch):
                labels[row, scored[turn]] = ids[scored[turn]]
                rest = [at for at, word in zip(scored[turn:], words[turn:], strict=True) if word == words[turn]]
                rows[row, rest if metric == "within_word_l2r" else rest[:1]] = mask
            values.append(run(plan, Batch.of(rows.tolist(), labels=labels.tolist()))[labels.ravel() >= 0, 0])
        logprobs = np.concatenate(values)
        total = float(logprobs.sum(dtype=np.float64))
        perplexity = float(np.exp(min(-total / len(logprobs), 700.0)))
        found.append(
            PseudoScore(metric=metric, sum_logprob=total, pseudo_perplexity=perplexity, token_logprobs=logprobs)
        )
    return found
