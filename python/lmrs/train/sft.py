"""Supervised fine-tuning: answers predicted from their prompts, which are read but not learnt."""

from collections.abc import Sequence
from typing import Any

from lmrs.errors import InputError
from lmrs.models.beside import tokenizer_of
from lmrs.tokenizer import Tokenizer
from lmrs.train.ids import checked
from lmrs.train.objective import IGNORED, Example, NextToken


def sft(
    model: Any,
    pairs: Sequence[tuple[str | Sequence[int], str | Sequence[int]]],
    *,
    tokenizer: Tokenizer | None = None,
) -> NextToken:
    """The objective ``-Σ log p(answerₜ | prompt, answer₁ … answerₜ₋₁)`` over ``pairs`` of a prompt and an answer.

    Both are texts or lists of token ids. Texts are encoded by ``tokenizer``, by default the one beside the model's
    checkpoint: a prompt as at the start of a text, an answer as its continuation with the end-of-text token behind it
    if there is one. Raises InputError naming a pair that is empty, longer than the model takes, or has an id it lacks.
    """

    def ids(text: str | Sequence[int], *, answer: bool) -> list[int]:
        nonlocal tokenizer
        if not isinstance(text, str):
            return list(text)
        tokenizer = tokenizer or tokenizer_of(model)
        end = [tokenizer.eos_id] if answer and tokenizer.eos_id is not None else []
        return [*tokenizer.encode(text, add_special_tokens=not answer).ids, *end]

    examples, longest = [], model.config.context
    for index, (given, wanted) in enumerate(pairs):
        prompt, answer = ids(given, answer=False), ids(wanted, answer=True)
        if not prompt or not answer:
            raise InputError(f"pair {index} has an empty {'answer' if prompt else 'prompt'}")
        whole = prompt + answer
        if longest is not None and len(whole) - 1 > longest:
            raise InputError(f"pair {index} has {len(whole)} tokens, the model takes {longest}")
        examples.append(Example(whole[:-1], [IGNORED] * (len(prompt) - 1) + answer))
        checked(model, [whole], "pair")
    return NextToken(model, examples)
