"""Alignment: preferences, reward models and reinforcement learning, one algorithm a file.

    pairs = lmrs.align.encoded(model, lmrs.align.read("hh.jsonl"), unfit="drop").pairs
    policy = lmrs.delta.LoRA()(model)
    history = lmrs.train.fit(lmrs.align.dpo(policy, pairs), steps=100)

    policy = lmrs.delta.LoRA()(model)
    lmrs.align.learn(lmrs.align.ppo(policy, prompts, scorer), iterations=20)

A loss is a function of log-probabilities, in float64, on whatever backend the model is.
"""

from lmrs.align.cpo import CPO, cpo, simpo
from lmrs.align.dpo import DPO, dpo
from lmrs.align.generalise import Carried, answered, generalisation
from lmrs.align.grpo import GRPO, grpo
from lmrs.align.kto import KTO, kto, unpaired
from lmrs.align.online import Iteration, learn
from lmrs.align.orpo import ORPO, orpo
from lmrs.align.pairwise import Pairwise
from lmrs.align.ppo import PPO, ppo
from lmrs.align.preferences import Encoded, Pair, Preference, encoded, prompt_ids, read
from lmrs.align.reward import BradleyTerry, Scored, load_scored, reward, save_scored
from lmrs.align.rloo import RLOO, rloo
from lmrs.align.rollout import Sample, by_model
from lmrs.align.sft import completion, held_out, instructions, mixed

__all__ = [
    "CPO",
    "DPO",
    "GRPO",
    "KTO",
    "ORPO",
    "PPO",
    "RLOO",
    "BradleyTerry",
    "Carried",
    "Encoded",
    "Iteration",
    "Pair",
    "Pairwise",
    "Preference",
    "Sample",
    "Scored",
    "answered",
    "by_model",
    "completion",
    "cpo",
    "dpo",
    "encoded",
    "generalisation",
    "grpo",
    "held_out",
    "instructions",
    "kto",
    "learn",
    "load_scored",
    "mixed",
    "orpo",
    "ppo",
    "prompt_ids",
    "read",
    "reward",
    "rloo",
    "save_scored",
    "simpo",
    "unpaired",
]
