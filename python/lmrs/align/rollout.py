"""Rollouts: what the policy says now, by the engine, with its delta live and no copy of the weights."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from lmrs.align.logprobs import backend_of, measured
from lmrs.align.preferences import example
from lmrs.align.vector import Floats
from lmrs.engine import Engine
from lmrs.errors import InputError
from lmrs.tokenizer import Tokenizer
from lmrs.train.objective import Example


@dataclass(frozen=True, eq=False)
class Sample:
    """A reply drawn from the policy.

    ``number`` is that of its prompt in the list given. ``ended`` says whether it closed with an end-of-sequence token,
    the last of ``reply`` then. ``logprobs`` are of the tokens drawn, under the distribution they were drawn from.
    """

    number: int
    prompt: list[int]
    reply: list[int]
    text: str
    ended: bool
    logprobs: Floats

    @property
    def example(self) -> Example:
        """The reply to be predicted after its prompt."""
        return example(self.prompt, self.reply)


FAR = 1e6
"""Nats a reply, far above what a policy that is held to its reference ever has."""

Scorer = Callable[[Sequence[Sample]], Sequence[float] | Floats]
"""A reward of each sample: a verifier, or :func:`by_model`."""


def rollout(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[int],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    iteration: int,
    tokenizer: Tokenizer | None = None,
) -> list[Sample]:
    """A reply to each of ``prompts[number]``; a draw is a function of (``seed``, ``iteration``, place in ``numbers``).

    The log-probabilities are those that :func:`~lmrs.align.logprobs.measured` gives, to the bit: where nothing has been
    trained in between, the ratio of an update to them is exactly 1. Raises InputError for a prompt that leaves no room
    for ``max_tokens``, and what the engine raises.
    """
    context = policy.config.context
    for number in numbers:
        if not prompts[number] or (context is not None and len(prompts[number]) + max_tokens > context):
            length = len(prompts[number])
            raise InputError(
                f"prompt {number} has {length} tokens and {max_tokens} may follow, the model takes {context}"
            )
    backend = backend_of(policy)
    # Recorded anew, since training replaces the tensors of the delta; the panels of frozen weights are shared.
    live = policy if backend == "native" else import_module("lmrs.backend.torch").fetch(policy)
    completions = Engine(live, tokenizer=tokenizer).generate(
        [list(prompts[number]) for number in numbers],
        max_tokens=max_tokens,
        temperature=temperature,
        seed=[_seed(seed, iteration, place) for place in range(len(numbers))],
    )
    drawn = [
        Sample(number, list(prompts[number]), c.tokens, c.text, c.finish_reason == "eos", c.logprobs.astype(np.float64))
        for number, c in zip(numbers, completions, strict=True)
    ]
    if backend == "native" and temperature == 1.0:
        return drawn
    found = measured(policy, [s.example for s in drawn], backend=backend, temperature=temperature)
    return [
        Sample(s.number, s.prompt, s.reply, s.text, s.ended, logprobs) for s, logprobs in zip(drawn, found, strict=True)
    ]


def scored(scorer: Scorer, samples: Sequence[Sample], *, missing_eos: float | None = None) -> Floats:
    """The reward of each sample, less ``missing_eos`` where it did not end.

    Raises InputError naming the first that is not a finite number, or if there are not as many as samples.
    """
    scores = np.asarray(scorer(samples), np.float64)
    if scores.shape != (len(samples),):
        raise InputError(f"the reward gave {list(scores.shape)} numbers for {len(samples)} samples")
    if not np.isfinite(scores).all():
        wrong = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise InputError(f"the reward of sample {wrong} (prompt {samples[wrong].number}) is {scores[wrong]}")
    if missing_eos is not None:
        scores = scores - missing_eos * np.array([not sample.ended for sample in samples])
    return scores


def expect_bounded(penalties: Floats, samples: Sequence[Sample]) -> None:
    """Raise InputError naming the first sample whose KL from the reference, ``[samples]``, no update can follow.

    Beyond :data:`FAR` nats the reference calls a reply impossible, and a penalty in proportion is no guide.
    """
    wrong = np.flatnonzero(~(np.abs(penalties) < FAR))
    if wrong.size:
        sample = samples[int(wrong[0])]
        raise InputError(f"the KL of sample {wrong[0]} (prompt {sample.number}) is {penalties[wrong[0]]:.4g}")


def by_model(model: Any) -> Scorer:
    """Rewards by a :class:`lmrs.align.Scored`."""
    return lambda samples: model.rewards([sample.prompt + sample.reply for sample in samples])


def _seed(seed: int, iteration: int, place: int) -> int:
    digest = hashlib.blake2b(f"{seed} {iteration} {place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
