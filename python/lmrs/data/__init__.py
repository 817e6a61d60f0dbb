"""Text on its way into training: token ids in files that are mapped and never read whole."""

from lmrs.data.shards import Shards, pack

__all__ = ["Shards", "pack"]
