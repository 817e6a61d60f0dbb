"""Tokenizers: text to ids and back, exact to the id and the character."""

from lmrs._rs import DecodeStream, EncodeStream, Encoding
from lmrs.tokenizer.options import Options
from lmrs.tokenizer.rows import Rows
from lmrs.tokenizer.tokenizer import Tokenizer
from lmrs.tokenizer.training import Training

__all__ = ["DecodeStream", "EncodeStream", "Encoding", "Options", "Rows", "Tokenizer", "Training"]
