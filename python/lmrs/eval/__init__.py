"""Measuring models."""

from lmrs.eval.answers import answers
from lmrs.eval.arrow import ArrowScorer
from lmrs.eval.bilm import BothWaysScore, score_both_ways
from lmrs.eval.compare import Comparison, compare
from lmrs.eval.continuations import Continuation
from lmrs.eval.corpus import Shard, Totals, merged, perplexity, score_corpus
from lmrs.eval.masked import PseudoScore, pseudo_loglikelihood
from lmrs.eval.outcome import Metric, Outcome
from lmrs.eval.protocols import PROTOCOLS, Protocol, Window
from lmrs.eval.scores import Score
from lmrs.eval.surprisal import WordSurprisal, surprisal

__all__ = [
    "PROTOCOLS",
    "ArrowScorer",
    "BothWaysScore",
    "Comparison",
    "Continuation",
    "Metric",
    "Outcome",
    "Protocol",
    "PseudoScore",
    "Score",
    "Shard",
    "Totals",
    "Window",
    "WordSurprisal",
    "answers",
    "compare",
    "merged",
    "perplexity",
    "pseudo_loglikelihood",
    "score_both_ways",
    "score_corpus",
    "surprisal",
]
