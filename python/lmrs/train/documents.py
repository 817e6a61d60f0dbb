"""Documents as token ids: what objectives are made of."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from lmrs.data import Shards, is_dataset, texts_of
from lmrs.errors import InputError
from lmrs.models.beside import tokenizer_of
from lmrs.tokenizer import Tokenizer
from lmrs.train.ids import checked

Ids = Sequence[int]
Documents = Any
"""A text; several texts or sequences of ids; :class:`lmrs.data.Shards`; or a dataset with a column ``text``."""

T = TypeVar("T")


@dataclass(frozen=True)
class Each(Sequence[T], Generic[T]):
    """``made`` of each of ``items``, when it is asked for: examples as a corpus has them, none of them in memory."""

    made: Callable[[Any], T]
    items: Sequence[Any]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        """Item ``index``, or a list of those of a slice."""
        return (
            [self.made(item) for item in self.items[index]]
            if isinstance(index, slice)
            else self.made(self.items[index])
        )


class Runs(Sequence[Ids]):
    """Runs of at most ``size + overlap`` tokens of each document, one every ``size``; none is shorter than ``least``.

    A run is cut when it is asked for. What is held is a number a document, the runs before it.
    """

    def __init__(self, documents: "Sequence[Ids] | Shards", size: int, *, least: int = 1, overlap: int = 0) -> None:
        self.documents, self.size, self.overlap = documents, size, overlap
        lengths = documents.lengths if isinstance(documents, Shards) else np.array([len(ids) for ids in documents], int)
        counts = np.maximum((lengths - least) // size + 1, 0)
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: Any) -> Any:
        """Run ``index``, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(index)
        document = bisect_right(self._ends, at)
        start = (at - (int(self._ends[document - 1]) if document else 0)) * self.size
        return self.documents[document][start : start + self.size + self.overlap]


def encoded(
    model: Any, documents: Documents, *, tokenizer: Tokenizer | None, special: bool = False, end: bool = False
) -> Sequence[Any]:
    """The ids of ``documents``, see :data:`Documents`; ids are taken as they are, and those of shards stay in files.

    Texts are encoded by ``tokenizer``, by default the one beside the model's checkpoint, with its ``special`` tokens
    around them or without, and behind each its end-of-text token if ``end`` and there is one. Raises InputError if an
    id is not the model's or there is no tokenizer for a text.
    """
    if isinstance(documents, Shards):
        if documents.vocabulary > model.config.vocabulary:
            had = f"of a vocabulary of {documents.vocabulary}, the model has {model.config.vocabulary}"
            raise InputError(f"{documents.directory} holds tokens {had}")
        return documents
    found: list[Ids] = []
    for document in _each(documents):
        if isinstance(document, str):
            tokenizer = tokenizer or tokenizer_of(model)
            last = [tokenizer.eos_id] if end and tokenizer.eos_id is not None else []
            found.append([*tokenizer.encode(document, add_special_tokens=special).ids, *last])
        else:
            found.append(document)
    checked(model, found, "document")
    return found


def _each(documents: Documents) -> Iterator[str | Ids]:
    if isinstance(documents, str):
        return iter([documents])
    return texts_of(documents) if is_dataset(documents) else iter(documents)


def length(context: int | None, model: Any, *, least: int = 1) -> int:
    """How long an example may be: ``context``, by default what the model takes, at most 1024.

    Raises InputError if that is not in ``least`` … what the model takes.
    """
    longest = model.config.context
    context = min(longest or 1024, 1024) if context is None else context
    if context < least or (longest is not None and context > longest):
        raise InputError(f"context is {context}, expected {least} … {longest or 'any number of'} tokens")
    return context
