"""Texts as encoders read them."""

from collections.abc import Sequence
from typing import cast

from lmrs.engine.options import Ids
from lmrs.errors import InputError
from lmrs.tokenizer import Tokenizer

Pieces = list[tuple[list[int], list[int]]]


def pieces(
    tokenizer: Tokenizer | None, texts: Sequence[str | Ids | tuple[str, str]], *, most: int | None, truncate: bool
) -> Pieces:
    """The ids and segments of each text, of a pair of texts, or of token ids, which need no ``tokenizer``.

    Raises InputError for an empty text, and for one of more than ``most`` tokens unless ``truncate`` cuts it.
    """
    cut = most if truncate else None
    rows: Pieces = [([], []) for _ in texts]
    of: dict[bool, list[int]] = {False: [], True: []}
    for at, text in enumerate(texts):
        if isinstance(text, str) or _is_pair(text):
            if "" in ([text] if isinstance(text, str) else text):
                raise InputError(f"text {at} to embed is empty")
            of[not isinstance(text, str)].append(at)
        else:
            ids = [int(id_) for id_ in cast("Ids", text)][:cut]
            rows[at] = (ids, [0] * len(ids))
    for pairs, numbers in of.items():
        if not numbers or tokenizer is None:
            continue
        first = [str(texts[at][0] if pairs else texts[at]) for at in numbers]
        second = [str(texts[at][1]) for at in numbers] if pairs else None
        for at, encoding in zip(numbers, tokenizer.encode(first, pair=second, max_length=cut), strict=True):
            rows[at] = (encoding.ids, encoding.type_ids)
    for at, (ids, _) in enumerate(rows):
        if most is not None and len(ids) > most:
            raise InputError(f"text {at} has {len(ids)} tokens, expected at most {most}; truncate=True cuts it")
    return rows


def _is_pair(text: object) -> bool:
    return isinstance(text, tuple) and len(text) == 2 and all(isinstance(half, str) for half in text)
