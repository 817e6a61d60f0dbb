"""sentence-transformers' ``encode`` on an engine, for code that was written for it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmrs.engine.engine import Engine
from lmrs.engine.plans import DType
from lmrs.errors import ConfigError, InputError
from lmrs.files import read_json
from lmrs.models import load

Vectors = npt.NDArray[np.float32]


class SentenceEncoder:
    """What a ``SentenceTransformer`` of the same checkpoint does, as far as texts become numpy vectors.

    ``model`` is what :func:`lmrs.load` takes, or an engine. Raises as that does.
    """

    def __init__(self, model: str | os.PathLike[str] | Engine, *, dtype: DType = "f32") -> None:
        self.engine = model if isinstance(model, Engine) else Engine(load(model), dtype=dtype)
        source = self.engine.model.source
        settings = None if source is None else Path(source) / "config_sentence_transformers.json"
        self._settings: Mapping[str, Any] = read_json(settings) if settings is not None and settings.is_file() else {}

    @property
    def prompts(self) -> Mapping[str, str]:
        """The prompts the checkpoint brings, by name."""
        return self._settings.get("prompts") or {}

    @property
    def max_seq_length(self) -> int | None:
        """After so many tokens, special ones included, a text is cut."""
        return self.engine.longest

    def get_sentence_embedding_dimension(self) -> int:
        """The width of a vector."""
        return self.engine.config.width

    def encode(
        self,
        sentences: str | list[str] | npt.NDArray[np.str_],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        device: str | None = None,
    ) -> Vectors | list[Vectors]:
        """One vector a text, float32 ``[n, d]``; one text gives ``[d]``. A text too long is cut.

        ``prompt``, or the checkpoint's of ``prompt_name``, is put before each text. ``truncate_dim`` keeps the first
        dimensions, ``normalize_embeddings`` then scales to length 1. Without ``convert_to_numpy`` it is a list of
        vectors. ``batch_size``, ``show_progress_bar`` and ``device`` change nothing: the engine packs its batches
        itself. Raises InputError for ``convert_to_tensor``, which `torch.from_numpy` does, and an unknown
        ``prompt_name``.
        """
        if convert_to_tensor:
            raise InputError("convert_to_tensor is on, expected off: give the vectors to torch.from_numpy")
        one = isinstance(sentences, str)
        before = self._prompt(prompt_name) if prompt is None else prompt
        texts = [before + str(text) for text in ([sentences] if one else sentences)]
        # The engine refuses an empty text; here it is its special tokens.
        given: Any = [text or self.engine.tokenizer.encode("").ids for text in texts]
        vectors = (
            self.engine.embed(given, truncate=True) if given else np.zeros((0, self.engine.config.width), np.float32)
        )
        if truncate_dim is not None:
            vectors = vectors[:, :truncate_dim]
        if normalize_embeddings:
            # As torch's normalize has it, which leaves a zero vector zero.
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
        if one:
            first: Vectors = vectors[0]
            return first
        return vectors if convert_to_numpy else list(vectors)

    def encode_query(self, sentences: str | list[str], **how: Any) -> Vectors | list[Vectors]:
        """:meth:`encode` with the prompt called ``query``, if there is one."""
        return self.encode(sentences, **{"prompt_name": self._named("query")} | how)

    def encode_document(self, sentences: str | list[str], **how: Any) -> Vectors | list[Vectors]:
        """:meth:`encode` with the prompt called ``document``, ``passage`` or ``corpus``, if there is one."""
        return self.encode(sentences, **{"prompt_name": self._named("document", "passage", "corpus")} | how)

    def similarity(self, these: npt.ArrayLike, those: npt.ArrayLike) -> Vectors:
        """How alike each vector of ``these`` is to each of ``those``: the cosine, or dot if the checkpoint says so."""
        how = self._settings.get("similarity_fn_name") or "cosine"
        a, b = (np.atleast_2d(np.asarray(vectors, np.float32)) for vectors in (these, those))
        if how == "cosine":
            a, b = (of / np.maximum(np.linalg.norm(of, axis=1, keepdims=True), np.float32(1e-12)) for of in (a, b))
        elif how not in ("dot", "dot_product"):
            raise ConfigError(f"similarity_fn_name is {how!r}, expected cosine or dot")
        found: Vectors = a @ b.T
        return found

    def _prompt(self, name: str | None) -> str:
        name = self._settings.get("default_prompt_name") if name is None else name
        if name is None:
            return ""
        if name not in self.prompts:
            raise InputError(f"prompt_name is {name!r}, expected one of {', '.join(self.prompts) or 'none'}")
        return self.prompts[name]

    def _named(self, *names: str) -> str | None:
        return next((name for name in names if name in self.prompts), None)
