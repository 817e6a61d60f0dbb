"""Where in a checkpoint the numbers of a canonical parameter are, in a form that can be read backwards for saving."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lmrs.backend import native

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Source:
    """Tensor ``name`` of a checkpoint, or a part of it.

    ``transposed``: it is stored ``[in, out]``. ``rows``: of that, after transposing, only rows start … stop-1, because
    several parameters are stored one after another. ``piece``: the rows are runs, one a head, each of several pieces;
    of these the parameter is piece ``which`` of ``count`` in each of ``heads`` runs. ``plus`` is what the parameter has
    more than what is stored: where a norm multiplies by ``1 + w``, files have ``w``.
    """

    name: str
    transposed: bool = False
    rows: tuple[int, int] | None = None
    piece: "Piece | None" = None
    plus: float = 0.0

    def read(self, tensor: native.Tensor) -> native.Tensor:
        """The parameter's values, from the whole tensor ``name``: a part of the file if that lies in one."""
        values = tensor.transposed() if self.transposed else tensor
        if self.rows is not None:
            values = values.slice_rows(*self.rows)
        if self.piece is not None:
            values = native.array(self.piece.cut(values.numpy())).tensor
        if self.plus:
            stored = values.numpy()
            values = native.array(stored + stored.dtype.type(self.plus)).tensor
        return values


@dataclass(frozen=True)
class Piece:
    """Piece ``which`` of ``count`` in each of ``heads`` runs of rows."""

    heads: int
    count: int
    which: int

    def cut(self, stored: Array) -> Array:
        """The pieces, from all rows ``[heads·count·n, …]`` to ``[heads·n, …]``."""
        runs = stored.reshape(self.heads, self.count, -1, *stored.shape[1:])
        return np.ascontiguousarray(runs[:, self.which].reshape(-1, *stored.shape[1:]))


Sources: TypeAlias = dict[str, Source]


def both(path: str, name: str) -> Sources:
    """The sources of the weight and the bias of module ``path``, stored under ``name``."""
    return {f"{path}.{kind}": Source(f"{name}.{kind}") for kind in ("weight", "bias")}


def weight(path: str, name: str) -> Sources:
    """The source of the weight of module ``path``, stored under ``name``."""
    return {f"{path}.weight": Source(f"{name}.weight")}


def by_tensor(sources: Sources) -> dict[str, dict[str, Source]]:
    """The sources grouped by checkpoint tensor."""
    groups: dict[str, dict[str, Source]] = defaultdict(dict)
    for path, source in sources.items():
        groups[source.name][path] = source
    return dict(groups)


def stored_shape(shapes: Mapping[str, tuple[int, ...]], parts: Mapping[str, Source]) -> tuple[int, ...]:
    """The shape of the tensor that holds the parameters ``parts``, whose own shapes are ``shapes``."""
    path, source = next(iter(parts.items()))
    if source.piece is not None:
        return source.piece.count * shapes[path][0], *shapes[path][1:]
    length = max(part.rows[1] for part in parts.values() if part.rows) if source.rows else shapes[path][0]
    shape = (length, *shapes[path][1:])
    return shape[::-1] if source.transposed else shape


def written(values: Mapping[str, Array], parts: Mapping[str, Source]) -> Array:
    """The inverse of :meth:`Source.read`: the tensor that holds ``parts``, whose values are ``values``."""
    first = next(iter(parts.values()))
    if first.plus:
        values = {path: array - array.dtype.type(parts[path].plus) for path, array in values.items()}
    if first.piece is not None:
        heads = first.piece.heads
        pieces = {part.piece.which: values[path] for path, part in parts.items() if part.piece is not None}
        runs = [pieces[which].reshape(heads, -1, *pieces[which].shape[1:]) for which in sorted(pieces)]
        return np.ascontiguousarray(np.concatenate(runs, axis=1).reshape(-1, *runs[0].shape[2:]))
    ordered = sorted(parts, key=lambda path: parts[path].rows or (0, 0))
    whole = np.concatenate([values[path] for path in ordered])
    return np.ascontiguousarray(whole.T if first.transposed else whole)
