"""lmrs."""

import itertools

import numpy as np

import lmrs
import models
import work
from lmrs.backend.machine import instruction_set, threads
from lmrs.batch import Batch
from lmrs.delta import LoRA
from lmrs.eval.plans import run
from lmrs.train import AdamW, clm, fit
from runners import Jobs

DTYPES = ("f32", "bf16", "int8", "int4")


def versions() -> str:
    return f"lmrs {lmrs.__version__} ({instruction_set()})"


def jobs(name: str, dtype: str, count: int) -> Jobs:
    assert threads() == count
    path = models.smollm2() if name == "smollm2" else models.transformers(name)
    model = lmrs.load(path)
    engine = lmrs.Engine(model, dtype=dtype)
    return {"smollm2": _decoder, "gpt2": _decoder, "minilm": _encoder, "bert": _encoder, "t5": _translator}[name](
        name, engine, dtype
    )


def _decoder(name: str, engine: lmrs.Engine, dtype: str) -> Jobs:
    prompt = work.ids(name, work.PREFILL_TOKENS)
    prompts = work.rows(name, work.STREAMS, work.DECODE_PROMPT)
    shifts = {
        job: itertools.chain([0], itertools.count(start, 3)) for start, job in enumerate(("prefill", "one", "many"), 1)
    }

    def anew(job: str, rows: list[list[int]]) -> list[list[int]]:
        # What it has seen the engine does not compute again. The answer of the first run is compared; after it no
        # beginning comes twice.
        shift = next(shifts[job])
        return [[ids[0] + shift, *ids[1:]] for ids in rows]

    def prefill() -> np.ndarray:
        done = engine.generate(*anew("prefill", [prompt]), max_tokens=1, ignore_eos=True)
        return np.array([done.tokens[0], done.logprobs[0]])

    def decode() -> np.ndarray:
        return np.array(
            engine.generate(*anew("one", prompts[:1]), max_tokens=work.DECODE_TOKENS, ignore_eos=True).tokens
        )

    def streams() -> np.ndarray:
        done = engine.generate(anew("many", prompts), max_tokens=work.DECODE_TOKENS, ignore_eos=True)
        return np.array([completion.tokens for completion in done])

    plan = engine.planned(lambda batch: engine.model.head.logprob(engine.model.hidden(batch), batch.labels))
    running = itertools.cycle(work.windows(name))

    def windows() -> np.ndarray:
        ids = next(running)
        return run(plan, Batch.of([ids[:-1]], labels=[ids[1:]]))[:, 0]

    jobs = {"prefill": prefill, "decode": decode, "streams": streams, "windows": windows}
    if name != "smollm2":
        return jobs
    texts = [engine.tokenizer.decode(row) for row in work.rows(name, work.SCORE_TEXTS, work.SCORE_TOKENS)]

    def score() -> np.ndarray:
        return np.array([s.sum_logprob for s in engine.score(texts, protocol="disjoint")])

    pairs = work.choices()

    def choices() -> np.ndarray:
        return np.array([one.sum_logprob for one in engine.continuations(pairs)])

    return {**jobs, "score": score, "choices": choices} | ({"tune": _tune(engine)} if dtype == "f32" else {})


def _tune(engine: lmrs.Engine) -> object:
    targets = f"*.attn.{{{','.join(work.TARGETS)}}}"
    tuned = LoRA(rank=work.RANK, alpha=work.ALPHA, targets=targets)(engine.model)
    blocks = work.rows("smollm2", work.TUNE_SEQUENCES, work.TUNE_TOKENS)
    objective = clm(tuned, blocks, context=work.TUNE_TOKENS)
    settings = AdamW(learning_rate=work.RATE, weight_decay=0.01)
    tokens = work.TUNE_SEQUENCES * work.TUNE_TOKENS

    def tune() -> np.ndarray:
        return np.array(fit(objective, steps=1, batch_tokens=tokens, optimiser=settings, clip=None).losses)

    return tune


def _encoder(name: str, engine: lmrs.Engine, dtype: str) -> Jobs:
    rows = work.rows(name, work.ENCODE_TEXTS, work.ENCODE_TOKENS)
    jobs = {"encode": lambda: engine.embed(rows, pooling="mean", normalize=False)}
    return jobs | ({"embed": lambda: engine.embed(work.sentences(), truncate=True)} if name == "minilm" else {})


def _translator(name: str, engine: lmrs.Engine, dtype: str) -> Jobs:
    rows = work.rows(name, work.STREAMS, work.ENCODE_TOKENS)

    def translate(several: list[list[int]]) -> np.ndarray:
        done = engine.generate(several, max_tokens=work.DECODE_TOKENS, ignore_eos=True)
        return np.array([completion.tokens for completion in done])

    return {"translate": lambda: translate(rows[:1]), "translate 8": lambda: translate(rows)}
