"""The ids of many texts in one array."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """The ids of many texts, one behind the other.

    Attributes:
        ids: All of them, uint32 `[tokens]`.
        starts: Where each text begins, and the last one ends, int64 `[texts + 1]`.
    """

    ids: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, text: int) -> npt.NDArray[np.uint32]:
        """The ids of one text: a view, nothing is copied."""
        if not -len(self) <= text < len(self):
            raise IndexError(f"text {text} of {len(self)}")
        text %= len(self)
        return self.ids[self.starts[text] : self.starts[text + 1]]

    def lists(self) -> list[list[int]]:
        """The ids of each text as a list."""
        return [self[text].tolist() for text in range(len(self))]
