"""The engine: a recorded model, run from Rust.

A model is recorded when it is first asked for something; from then on Python only passes texts in and results out.
"""

from lmrs.engine.completion import Beam, Completion, FinishReason, Token
from lmrs.engine.engine import Engine
from lmrs.engine.grammar import Grammar
from lmrs.engine.loop import Load
from lmrs.engine.memory import Memory
from lmrs.engine.options import Options, Reading, Writing
from lmrs.engine.packed import quantize
from lmrs.engine.plans import DType, KvDtype
from lmrs.engine.reply import AsyncReply, Reply
from lmrs.engine.resident import CACHE_BYTES
from lmrs.engine.sentences import SentenceEncoder

__all__ = [
    "CACHE_BYTES",
    "AsyncReply",
    "Beam",
    "Completion",
    "DType",
    "Engine",
    "FinishReason",
    "Grammar",
    "KvDtype",
    "Load",
    "Memory",
    "Options",
    "Reading",
    "Reply",
    "SentenceEncoder",
    "Token",
    "Writing",
    "quantize",
]
