"""Text on its way into training: token ids in files that are mapped and never read whole."""

from lmrs.data.dataset import is_dataset, texts_of
from lmrs.data.shards import Shards, pack

__all__ = ["Shards", "is_dataset", "pack", "texts_of"]
