"""The jobs done by lmrs in float32."""

from collections.abc import Callable

import numpy as np

import lmrs
import work
from lmrs.backend.machine import instruction_set, threads
from lmrs.delta import LoRA
from lmrs.train import AdamW, clm, fit


def versions() -> str:
    return f"lmrs {lmrs.__version__} ({instruction_set()})"


def jobs(count: int) -> dict[str, Callable[[], np.ndarray]]:
    """A function for each job; what it returns is compared with the other runner's."""
    assert threads() == count
    model = lmrs.load(work.smollm2())
    engine = lmrs.Engine(model)
    ids = engine.tokenizer.encode(work.prose()[:20_000], add_special_tokens=False).ids
    encoder = lmrs.Engine(lmrs.load(work.minilm()))

    def prefill() -> np.ndarray:
        done = engine.generate(ids[: work.PREFILL_TOKENS], max_tokens=1, ignore_eos=True)
        return np.array([done.tokens[0], done.logprobs[0]])

    def decode() -> np.ndarray:
        return np.array(engine.generate(work.DECODE_PROMPT, max_tokens=work.DECODE_TOKENS, ignore_eos=True).tokens)

    def score() -> np.ndarray:
        scores = engine.score(work.score_texts(), protocol="disjoint")
        return np.array([*(s.sum_logprob for s in scores), sum(s.tokens for s in scores) + len(scores)])

    def embed() -> np.ndarray:
        return encoder.embed(work.sentences(), truncate=True)

    tuned = LoRA(rank=work.RANK, alpha=work.ALPHA, targets=f"*.attn.{{{','.join(work.TARGETS)}}}")(model)
    length = work.TUNE_TOKENS
    blocks = [ids[n * length : (n + 1) * length] for n in range(work.TUNE_SEQUENCES)]
    objective = clm(tuned, blocks, context=length)
    settings = AdamW(learning_rate=work.RATE, weight_decay=0.01)

    def tune() -> np.ndarray:
        history = fit(objective, steps=1, batch_tokens=len(blocks) * length, optimiser=settings, clip=None)
        return np.array(history.losses)

    return {"prefill": prefill, "decode": decode, "score": score, "embed": embed, "tune": tune}
