"""N-gram language models: the yardstick, and the sieve of web corpora."""

from pathlib import Path

from lmrs.errors import MissingFileError
from lmrs.eval.ngram import arpa
from lmrs.eval.ngram.buckets import Cutoffs, document_perplexity
from lmrs.eval.ngram.kenlm import MAGIC, KenLM
from lmrs.eval.ngram.model import NGramModel, Table, WordScore
from lmrs.eval.ngram.train import train

__all__ = ["Cutoffs", "KenLM", "NGramModel", "Table", "WordScore", "document_perplexity", "load", "save", "train"]


def load(path: str | Path) -> NGramModel:
    """The model in an ARPA file (also gzipped) or a binary one of KenLM, probing or any trie.

    Raises MissingFileError, FileError, FormatError.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    with path.open("rb") as file:
        binary = file.read(len(MAGIC)) == MAGIC
    return NGramModel(KenLM(path) if binary else arpa.read(path))


def save(model: Table, path: str | Path) -> None:
    """Write a trained model as ARPA, which KenLM reads too. Raises FileError if the system refuses."""
    arpa.write(model, Path(path))
