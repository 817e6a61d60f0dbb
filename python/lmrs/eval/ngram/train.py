"""Interpolated modified Kneser–Ney smoothing (Chen & Goodman 1998), estimated as lmplz does (Heafield et al. 2013)."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from lmrs.errors import InputError
from lmrs.eval.ngram.model import END, START, UNKNOWN, Entry, Table

Gram = tuple[int, ...]
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where counts of counts are too few to estimate them, as ``lmplz --discount_fallback``."""
NEVER = -99.0
"""log₁₀ of the probability of the start of a sentence, which is never predicted."""


def train(sentences: Iterable[str], *, order: int = 5) -> Table:
    """The model of ``sentences``, words between white space, held in memory.

    Below the highest order a count is the number of different words before the n-gram, but for n-grams at the start of
    a sentence, which have none. With ``a`` these counts and ``t_k`` the n-grams of an order that count ``k``,
    ``p(w | c) = (a(c w) - D(a(c w))) / Σ_v a(c v) + γ(c)·p(w | c')``, ``γ(c) = Σ_k D_k·N_k(c) / Σ_v a(c v)``,
    ``D_k = k - (k + 1)·Y·t_{k+1} / t_k`` and ``Y = t₁ / (t₁ + 2·t₂)``; below one word is the uniform distribution over
    the vocabulary, ``<unk>`` and ``</s>`` among it. Raises InputError for an order below 2 or above 16, no words, or a
    reserved one.
    """
    if not 2 <= order <= 16:
        raise InputError(f"order is {order}, expected 2 to 16")
    ids = {UNKNOWN: 0, START: 1, END: 2}
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = sentence.split()
        if reserved := {UNKNOWN, START, END} & set(words):
            raise InputError(f"a sentence holds {min(reserved)}, which the model keeps for itself")
        line = (1, *(ids.setdefault(word, len(ids)) for word in words), 2)
        for end in range(2, len(line) + 1):
            gram = line[max(0, end - order) : end]
            counts[len(gram) - 1][gram] += 1
    if len(ids) == 3:
        raise InputError("there is no word to train on")
    for n in range(order - 1, 0, -1):
        # So far an order holds the starts of sentences alone; the rest count who comes before them.
        counts[n - 1].update(gram[1:] for gram in counts[n])
    entries: dict[Gram, Entry] = {}
    lower: dict[Gram, float] = {(): 1.0 / (len(ids) - 1)}
    weights: dict[Gram, float] = {}
    for found in counts:
        probs, gammas = _smoothed(found, lower)
        if not lower.keys() - {()}:
            # The unknown word, never seen, gets what is left to the uniform distribution.
            probs[(0,)] = gammas[()] * lower[()]
        entries |= {gram: (math.log10(prob), 0.0) for gram, prob in probs.items()}
        weights |= gammas
        lower = probs
    entries[(1,)] = (NEVER, 0.0)
    for context, gamma in weights.items():
        if context:
            entries[context] = (entries[context][0], math.log10(gamma))
    return Table(order, ids, entries)


def _smoothed(counts: Mapping[Gram, int], lower: Mapping[Gram, float]) -> tuple[dict[Gram, float], dict[Gram, float]]:
    """The p of each n-gram and the γ of each context, from the counts of one order and p of the order below."""
    discounts = _discounts(counts)
    totals: dict[Gram, int] = defaultdict(int)
    taken: dict[Gram, float] = defaultdict(float)
    for gram, count in counts.items():
        totals[gram[:-1]] += count
        taken[gram[:-1]] += discounts[min(count, 3) - 1]
    gammas = {context: taken[context] / total for context, total in totals.items()}
    probs = {
        gram: (count - discounts[min(count, 3) - 1]) / totals[gram[:-1]] + gammas[gram[:-1]] * lower[gram[1:]]
        for gram, count in counts.items()
    }
    return probs, gammas


def _discounts(counts: Mapping[Gram, int]) -> tuple[float, ...]:
    of = Counter(min(count, 5) for count in counts.values())
    if not all(of[k] for k in (1, 2, 3)):
        return FALLBACK
    y = of[1] / (of[1] + 2 * of[2])
    found = tuple(k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3))
    return found if all(0 < value < k for k, value in enumerate(found, 1)) else FALLBACK
