"""Which weights these are, whatever file or dtype they came in."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt


def fingerprint(weights: Iterable[tuple[str, npt.NDArray[Any]]]) -> str:
    """The SHA-256 of paths, shapes and values as float32, in the order given."""
    digest = hashlib.sha256()
    for path, values in weights:
        digest.update(f"{path} {list(values.shape)}\n".encode())
        digest.update(np.ascontiguousarray(values, np.float32).data)
    return digest.hexdigest()
