"""The demo: the life of a language model in two minutes, told as one HTML page."""

from lmrs.demo.run import run

__all__ = ["run"]
