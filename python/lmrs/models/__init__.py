"""The model families, one page each: `lmrs.models.<model_type>` has `Config`, `Model` and `weights`."""

from lmrs.initialise import initialise
from lmrs.models.checkpoint import inspect, load, save
from lmrs.models.model import LanguageModel

__all__ = ["LanguageModel", "initialise", "inspect", "load", "save"]
