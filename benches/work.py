"""What is measured: jobs on five models, the same inputs for every runner."""

from dataclasses import dataclass
from importlib.resources import files

import numpy as np

PREFILL_TOKENS = 512
DECODE_PROMPT, DECODE_TOKENS, STREAMS = 16, 64, 8
SCORE_TEXTS, SCORE_TOKENS = 4, 256
EMBED_SENTENCES = 64
ENCODE_TEXTS, ENCODE_TOKENS = 8, 128
TUNE_SEQUENCES, TUNE_TOKENS = 4, 128
WINDOW = 1024
QUESTIONS, QUESTION_WORDS, CHOICES_EACH, CHOICE_WORDS = 4, 160, 4, 8
RANK, ALPHA, RATE = 8, 16, 1e-4
TARGETS = ("q", "v")


@dataclass(frozen=True)
class Job:
    """One job: `units` are done in a run, and a runner in float32 agrees with transformers within `tolerance`."""

    name: str
    what: str
    unit: str
    units: int
    tolerance: float


@dataclass(frozen=True)
class Model:
    """A model and the jobs that are done with it."""

    name: str
    what: str
    jobs: tuple[Job, ...]


PREFILL = Job("prefill", f"prefill {PREFILL_TOKENS}", "tok/s", PREFILL_TOKENS, 1e-3)
DECODE = Job("decode", "decode, one stream", "tok/s", DECODE_TOKENS, 0.0)
DECODE_MANY = Job("streams", f"decode, {STREAMS} streams", "tok/s", STREAMS * DECODE_TOKENS, 0.0)
SCORE = Job("score", f"log p, {SCORE_TEXTS} × {SCORE_TOKENS} tokens", "tok/s", SCORE_TEXTS * (SCORE_TOKENS - 1), 1e-3)
WINDOWS = Job("windows", f"log p, the next window of {WINDOW}", "tok/s", WINDOW - 1, 1e-3)
CHOICES = Job(
    "choices", f"{QUESTIONS} questions of {CHOICES_EACH} choices", "choices/s", QUESTIONS * CHOICES_EACH, 1e-3
)
EMBED = Job("embed", f"embed {EMBED_SENTENCES} sentences from text", "sent/s", EMBED_SENTENCES, 1e-4)
ENCODE = Job("encode", f"encode {ENCODE_TEXTS} × {ENCODE_TOKENS}", "seq/s", ENCODE_TEXTS, 1e-4)
TUNE = Job("tune", f"LoRA step, {TUNE_SEQUENCES} × {TUNE_TOKENS}", "tok/s", TUNE_SEQUENCES * TUNE_TOKENS, 1e-3)
TRANSLATE = Job("translate", f"encode {ENCODE_TOKENS}, decode {DECODE_TOKENS}", "tok/s", DECODE_TOKENS, 0.0)
TRANSLATE_MANY = Job("translate 8", f"{STREAMS} of them", "tok/s", STREAMS * DECODE_TOKENS, 0.0)

MODELS = (
    Model("smollm2", "SmolLM2-135M", (PREFILL, DECODE, DECODE_MANY, SCORE, TUNE)),
    Model("minilm", "MiniLM-L6", (EMBED, ENCODE)),
    Model("gpt2", "GPT-2 small (random)", (PREFILL, DECODE, DECODE_MANY)),
    Model("bert", "BERT-base (random)", (ENCODE,)),
    Model("t5", "T5-small (random)", (TRANSLATE, TRANSLATE_MANY)),
)


def prose() -> str:
    """Real text for every job: the addresses that ship with the demo."""
    return files("lmrs.demo").joinpath("corpus/inaugural.txt").read_text(encoding="utf-8")


def sentences() -> list[str]:
    """Sentences of 5 to 60 words, in the order of the text."""
    found = [line.strip() + "." for line in prose().replace("\n", " ").split(". ")]
    return [line for line in found if 5 <= len(line.split()) <= 60][:EMBED_SENTENCES]


def ids(model: str, count: int) -> list[int]:
    """Token ids: of the prose where there is a tokenizer, else from a seed."""
    if model == "smollm2":
        import lmrs
        import models

        return lmrs.Tokenizer.load(models.smollm2()).encode(prose()[: 8 * count], add_special_tokens=False).ids[:count]
    return np.random.default_rng(0).integers(1000, 20000, count).tolist()


def rows(model: str, count: int, length: int) -> list[list[int]]:
    """`count` sequences of `length` ids."""
    flat = ids(model, count * length)
    return [flat[n * length : (n + 1) * length] for n in range(count)]


def windows(model: str) -> list[list[int]]:
    """Windows of a running text."""
    count = 16
    flat = ids(model, count * WINDOW)
    return [flat[n * WINDOW : (n + 1) * WINDOW] for n in range(len(flat) // WINDOW)]


def choices() -> list[tuple[str, str]]:
    """(context, continuation): the continuations of a context one after another."""
    words, found = prose().split(), []
    size = QUESTION_WORDS + CHOICES_EACH * CHOICE_WORDS
    for question in range(QUESTIONS):
        part = words[question * size : (question + 1) * size]
        rest = part[QUESTION_WORDS:]
        for start in range(0, len(rest), CHOICE_WORDS):
            found.append((" ".join(part[:QUESTION_WORDS]), " " + " ".join(rest[start : start + CHOICE_WORDS])))
    return found
