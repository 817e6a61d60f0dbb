"""How likely words are as the answer to a filled template, whatever the model: cloze, text-to-text or prefix."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmrs.backend import native
from lmrs.batch import Batch
from lmrs.delta import Prompt, methods
from lmrs.engine import Engine
from lmrs.errors import ConfigError, InputError
from lmrs.eval.answers import answers
from lmrs.eval.plans import batches, run
from lmrs.eval.tasks import Heard, scored
from lmrs.prompting.template import MASK
from lmrs.prompting.verbalizer import Floats

SENTINEL = "<extra_id_0>"


def logprobs(engine: Engine, asked: Sequence[tuple[str, str]], *, on_done: Heard | None = None) -> Floats:
    """``log p`` of each (filled template, word), float64, in nats.

    A model that predicts the next token reads the text before the word, so a mask must stand at the end. An
    encoder-decoder answers: with a mask, ``<extra_id_0>`` and the word (T5's denoising), else the word and its end. A
    masked model has as many masks as the word has tokens, all predicted at once (Schick & Schütze 2021b, without its
    several passes). Raises InputError for a mask elsewhere, or none where one is needed; ConfigError if the tokenizer
    has no such token.
    """
    if hasattr(engine.model, "encode"):
        return _answered(engine, asked, on_done)
    if any(getattr(module, "causal", True) is False for _, module in engine.model.named_modules()):
        return _cloze(engine, asked, on_done)
    pairs = [(_ending(text), word) for text, word in asked]
    return np.array([one.sum_logprob for one in scored(engine, pairs, on_done)])


def _ending(text: str) -> str:
    if MASK in text and not text.endswith(MASK):
        raise InputError(f"{text!r} goes on behind its mask; a model that predicts the next token needs it at the end")
    return text.removesuffix(MASK)


def _answered(engine: Engine, asked: Sequence[tuple[str, str]], on_done: Heard | None) -> Floats:
    masked = [MASK in text for text, _ in asked]
    if any(masked) and engine.tokenizer.token_to_id(SENTINEL) is None:
        raise ConfigError(f"the tokenizer has no {SENTINEL}, which stands for a mask")
    found = np.zeros(len(asked))
    for cloze in (False, True):
        at = [index for index, is_cloze in enumerate(masked) if is_cloze is cloze]
        pairs = [(asked[i][0].replace(MASK, SENTINEL), (SENTINEL if cloze else "") + asked[i][1]) for i in at]
        if pairs:
            found[at] = [one.sum_logprob for one in answers(engine, pairs, add_special_tokens=not cloze)]
    _told(on_done, len(asked))
    return found


def _cloze(engine: Engine, asked: Sequence[tuple[str, str]], on_done: Heard | None) -> Floats:
    tokenizer, context = engine.tokenizer, engine.config.context
    model: Any = engine.model
    if (mask_id := tokenizer.mask_id) is None or (mask := tokenizer.id_to_token(mask_id)) is None:
        raise ConfigError("the tokenizer has no mask token")
    words = {word: list(tokenizer.encode(word, add_special_tokens=False).ids) for _, word in asked}
    if empty := [word for word, ids in words.items() if not ids]:
        raise InputError(f"the word {empty[0]!r} has no token")
    # One run serves all words of a length that are asked of a text.
    runs = list(dict.fromkeys((text, len(words[word])) for text, word in asked))
    sequences = []
    for text, length in runs:
        if text.count(MASK) != 1:
            raise InputError(f"{text!r} has {text.count(MASK)} masks, expected one: this model fills masks")
        ids = list(tokenizer.encode(text.replace(MASK, mask * length)).ids)
        if context is not None and len(ids) > context:
            raise InputError(f"{text!r} has {len(ids)} tokens, expected at most the model's context, {context}")
        if ids.count(mask_id) != length:
            raise InputError(f"{text!r} holds the mask token {mask!r} itself")
        sequences.append(ids)
    # What the rows of a soft prompt become here depends on the text, which no plan can hold.
    soft = any(isinstance(method, Prompt) for method in methods(model))
    hidden = None if soft else engine.planned(model.hidden)
    head = engine.planned(lambda _, states, __: model.head(states), memory_width=model.head.weight.shape[1])
    found: dict[tuple[str, int], Floats] = {}
    for part in batches(range(len(runs)), lambda index: len(sequences[index])):
        batch = Batch.of([sequences[index] for index in part])
        states = _at_once(model, batch) if hidden is None else run(hidden, batch)
        masked = states[np.concatenate([sequences[index] for index in part]) == mask_id]
        (logits,) = head.run({"memory": native.array(masked).tensor}, [("memory", [0, len(masked)])])
        table = logits.numpy().astype(np.float64)
        table -= np.logaddexp.reduce(table, axis=1, keepdims=True)
        for index, rows in zip(part, np.split(table, np.cumsum([runs[i][1] for i in part])[:-1]), strict=True):
            found[runs[index]] = rows
    _told(on_done, len(asked))
    return np.array([found[text, len(words[word])][range(len(words[word])), words[word]].sum() for text, word in asked])


def _at_once(model: Any, batch: Batch) -> Floats:
    with native.still():
        return native.numpy(model.hidden(batch).tensor)


def _told(on_done: Heard | None, count: int) -> None:
    if on_done is not None:
        on_done(count)
