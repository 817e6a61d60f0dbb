"""Alignment: preferences, reward models and reinforcement learning, one algorithm a file.

    pairs = lmrs.align.encoded(model, lmrs.align.read("hh.jsonl"), unfit="drop").pairs
    policy = lmrs.delta.LoRA()(model)
    history = lmrs.train.fit(lmrs.align.dpo(policy, pairs), steps=100)

A loss is a function of log-probabilities, in float64, on whatever backend the model is.
"""

from lmrs.align.cpo import CPO, cpo, simpo
from lmrs.align.dpo import DPO, dpo
from lmrs.align.kto import KTO, kto, unpaired
from lmrs.align.orpo import ORPO, orpo
from lmrs.align.pairwise import Pairwise
from lmrs.align.preferences import Encoded, Pair, Preference, encoded, read

__all__ = [
    "CPO",
    "DPO",
    "KTO",
    "ORPO",
    "Encoded",
    "Pair",
    "Pairwise",
    "Preference",
    "cpo",
    "dpo",
    "encoded",
    "kto",
    "orpo",
    "read",
    "simpo",
    "unpaired",
]
