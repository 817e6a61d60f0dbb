"""Delta tuning: small trained changes to a frozen model.

A delta is a function from model to model. ``LoRA(rank=8)(model)`` is a new tree that shares the frozen weights and
holds a few new ones; it trains, records and runs like any model.
"""

from lmrs.delta.checkpoint import load, save
from lmrs.delta.lora import LoRA, LowRank
from lmrs.delta.tree import merge

__all__ = ["LoRA", "LowRank", "load", "merge", "save"]
