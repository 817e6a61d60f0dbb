"""Training: an objective says what is minimised, :func:`fit` minimises it, one file each.

    history = lmrs.train.fit(lmrs.train.clm(model, texts, context=256), steps=200)

The model is trained in place; what it was loaded from is untouched.
"""

from lmrs.train.adafactor import Adafactor
from lmrs.train.bilm import bilm
from lmrs.train.clm import clm
from lmrs.train.dropout import dropout
from lmrs.train.lion import Lion
from lmrs.train.loop import fit
from lmrs.train.mlm import mlm
from lmrs.train.neftune import neftune
from lmrs.train.objective import Dynamic, Example, NextToken, Objective
from lmrs.train.optimiser import AdamW
from lmrs.train.pairs import sentence_pairs
from lmrs.train.paradigm import language_modelling
from lmrs.train.penalised import Penalised
from lmrs.train.prefix import prefix_lm
from lmrs.train.run import History, Step
from lmrs.train.schedule import WSD, Constant, Cosine, Linear
from lmrs.train.seq2seq import seq2seq
from lmrs.train.sft import sft
from lmrs.train.skipgram import skipgram
from lmrs.train.span import span_corruption

__all__ = [
    "WSD",
    "Adafactor",
    "AdamW",
    "Constant",
    "Cosine",
    "Dynamic",
    "Example",
    "History",
    "Linear",
    "Lion",
    "NextToken",
    "Objective",
    "Penalised",
    "Step",
    "bilm",
    "clm",
    "dropout",
    "fit",
    "language_modelling",
    "mlm",
    "neftune",
    "prefix_lm",
    "sentence_pairs",
    "seq2seq",
    "sft",
    "skipgram",
    "span_corruption",
]
