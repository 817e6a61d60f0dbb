"""What a model is called with: packed token ids and where each sequence starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import numpy as np
import numpy.typing as npt

from lmrs.errors import InputError
from lmrs.ops import Value

Int32 = npt.NDArray[np.int32]
Backend = Literal["native", "torch"]
Dtype = Literal["f32", "bf16"]
"""What products are computed in while training; weights are float32."""


@dataclass(frozen=True, eq=False)
class Ragged:
    """Where the sequences of a packed array start.

    ``name`` is the stream's name in a Program. ``starts`` is int32 of length ``sequences + 1``, the last entry being
    the number of rows; None while recording, when lengths are not known.
    """

    name: str
    starts: Int32 | None

    @classmethod
    def of(cls, name: str, lengths: Sequence[int]) -> "Ragged":
        """The stream of sequences of these lengths."""
        return cls(name, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))

    def spans(self) -> list[tuple[int, int]]:
        """``(start, stop)`` of every sequence. Raises InputError on a symbolic stream."""
        if self.starts is None:
            raise InputError(f"stream {self.name} is symbolic: its lengths are not known while recording")
        bounds = self.starts.tolist()
        return list(zip(bounds[:-1], bounds[1:], strict=True))


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Sequences of tokens, packed; the arrays are values of one backend, int32 of rank 1.

    ``ids [T]`` are token ids, ``positions [T]`` the place of each in its sequence, ``segments [T]`` BERT's token
    types, ``seqs`` where the sequences start. ``select [N]`` are the rows whose logits are wanted (all if None),
    ``labels [T]`` the token each row should predict (-100: none).
    """

    ids: Value
    positions: Value
    segments: Value
    seqs: Ragged
    select: Value | None = None
    labels: Value | None = None

    @classmethod
    def of(
        cls,
        sequences: Sequence[Sequence[int]],
        *,
        backend: Backend = "native",
        positions: Sequence[Sequence[int]] | None = None,
        segments: Sequence[Sequence[int]] | None = None,
        select: Sequence[int] | None = None,
        labels: Sequence[Sequence[int]] | None = None,
    ) -> "Batch":
        """Pack ``sequences`` of token ids; by default ``positions`` count from 0 in each and ``segments`` are 0.

        Raises InputError if there is no sequence, one is empty, or a companion list has other lengths.
        """
        lengths = [len(sequence) for sequence in sequences]
        if not lengths or 0 in lengths:
            empty = f"sequence {lengths.index(0)} is empty" if lengths else "there is no sequence"
            raise InputError(f"a batch needs at least one token a sequence: {empty}")

        def pack(name: str, parts: Sequence[Sequence[int]]) -> Value:
            if [len(part) for part in parts] != lengths:
                raise InputError(f"{name} has lengths {[len(p) for p in parts]}, the ids have {lengths}")
            return array(np.concatenate([_int32(name, part) for part in parts]))

        array = import_module(f"lmrs.backend.{backend}").array
        return cls(
            ids=pack("ids", sequences),
            positions=pack("positions", positions or [range(n) for n in lengths]),
            segments=pack("segments", segments or [[0] * n for n in lengths]),
            seqs=Ragged.of("tokens", lengths),
            select=None if select is None else array(_int32("select", select)),
            labels=None if labels is None else pack("labels", labels),
        )


def _int32(name: str, values: Sequence[int]) -> Int32:
    wide = np.asarray(values, np.int64)
    if wide.size and (wide.min() < -(2**31) or wide.max() >= 2**31):
        raise InputError(f"{name} holds {wide.max()}, which does not fit 32 bits")
    return wide.astype(np.int32)
