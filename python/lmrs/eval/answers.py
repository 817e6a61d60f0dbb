"""How likely an encoder-decoder's answer is to a text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lmrs.batch import Batch
from lmrs.errors import ConfigError, InputError
from lmrs.eval.continuations import RANK, Continuation
from lmrs.eval.plans import batches, run

if TYPE_CHECKING:
    from lmrs.engine import Engine

Tokens = str | Sequence[int]


def answers(
    engine: "Engine", pairs: Sequence[tuple[Tokens, Tokens]], *, add_special_tokens: bool = True
) -> list[Continuation]:
    """Log p of each answer given its question; ``pairs`` are (question, answer), texts or token ids.

    Questions are encoded with the tokenizer's special tokens, answers so if ``add_special_tokens``: the end of the
    sequence then counts, as in transformers' ``labels``; lm-evaluation-harness leaves it out. The decoder starts from
    the model's start token. Raises InputError for an empty question or answer; ConfigError if the model is no
    encoder-decoder.
    """
    model: Any = engine.model
    if not hasattr(model, "encode"):
        raise ConfigError(f"a {engine.config.family} is no encoder-decoder: `continuations` scores what it writes")
    encode = engine.planned(model.encode)
    width = engine.config.width
    decode = engine.planned(
        lambda batch, memory, seqs: model.head.logprob(model.hidden(batch, memory, seqs), batch.labels, top_k=0),
        memory_width=width,
    )
    ids = [
        (_ids(engine, question, special=True), _ids(engine, answer, special=add_special_tokens))
        for question, answer in pairs
    ]
    found = []
    for batch in batches(ids, lambda pair: len(pair[0]) + len(pair[1])):
        memory = run(encode, Batch.of([question for question, _ in batch]))
        starts = [0, *np.cumsum([len(question) for question, _ in batch]).tolist()]
        inputs = [[model.config.start, *answer[:-1]] for _, answer in batch]
        table = run(
            decode, Batch.of(inputs, labels=[answer for _, answer in batch]), memory=memory, memory_starts=starts
        )
        ends = np.cumsum([len(answer) for _, answer in batch])
        for rows in np.split(table, ends[:-1]):
            found.append(
                Continuation(
                    sum_logprob=float(rows[:, 0].sum(dtype=np.float64)),
                    tokens=len(rows),
                    greedy=bool((rows[:, RANK] == 1).all()),
                    token_logprobs=np.ascontiguousarray(rows[:, 0]),
                    dropped=0,
                )
            )
    return found


def _ids(engine: "Engine", given: Tokens, *, special: bool) -> list[int]:
    ids = engine.tokenizer.encode(given, add_special_tokens=special).ids if isinstance(given, str) else list(given)
    if not ids:
        raise InputError(f"{given!r} has no token")
    return ids
