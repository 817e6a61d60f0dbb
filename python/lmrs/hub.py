"""Names of the Hugging Face hub where a path is expected: what is not on this machine is fetched and kept.

``org/name`` is a repository, ``org/name/FILE.gguf`` one file of it, and ``@revision`` (a branch, tag or commit) may
follow either. The cache and the variables are those of huggingface_hub (``HF_HOME``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``,
``HF_ENDPOINT``), so what transformers has fetched is not fetched again.
"""

import os
import re
from pathlib import Path

from lmrs.errors import FileError, InputError, MissingFileError

TOKENIZER = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""The files of a repository that a tokenizer may be in, beside the config."""
MODEL = (*TOKENIZER, "*.safetensors")
"""The files that a model or a delta may be in. Pickles are not among them: reading one can run code."""

_NAME = re.compile(
    r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>[\w./-]+\.gguf))?(?:@(?P<revision>[\w./-]+))?", re.ASCII
)


def local(path: str | os.PathLike[str], files: tuple[str, ...]) -> Path:
    """``path`` itself, if there is something or if it is no name of the hub, else where ``files`` of it now are.

    Raises MissingFileError if the hub has nothing of that name or huggingface_hub is not installed, FileError if the
    hub cannot be reached or does not give it to this user, InputError if no repository can be called so.
    """
    name = _NAME.fullmatch(os.fspath(path))
    if name is None or os.path.exists(path):
        return Path(path)
    try:
        import huggingface_hub
        from httpx import HTTPError
        from huggingface_hub import errors
    except ModuleNotFoundError:
        raise MissingFileError(
            f"{path}: no such file or directory; lmrs[hub] would look for it on the Hugging Face hub"
        ) from None
    repository, file, revision = name.group("repository", "file", "revision")
    try:
        if file is not None:
            return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(files)))
    except errors.HFValidationError as error:
        raise InputError(f"{path}: no file, and no name of the hub: {error}") from None
    except errors.GatedRepoError as error:
        raise FileError(f"{path}: the hub gives it to those it knows (HF_TOKEN): {_first(error)}") from None
    except errors.LocalEntryNotFoundError as error:
        raise FileError(f"{path}: not on this machine, and the hub cannot be reached: {_first(error)}") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise MissingFileError(f"{path}: no such file or directory, and not on the hub: {_first(error)}") from None
    except (HTTPError, OSError) as error:
        raise FileError(f"{path}: cannot be fetched from the hub: {_first(error)}") from None


def _first(error: Exception) -> str:
    """The first line of a message of several."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
