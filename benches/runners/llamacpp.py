"""llama.cpp through llama-cpp-python's low-level functions, compiled for this machine."""

import itertools
from collections.abc import Sequence

import llama_cpp
import numpy as np

import models
import work
from runners import Jobs

DTYPES = ("f32", "bf16", "int8", "int4")
FILE = {"int8": "q8_0", "int4": "q4_0"}
BATCH = 1024


def versions() -> str:
    return f"llama-cpp-python {llama_cpp.__version__}"


def jobs(name: str, dtype: str, threads: int) -> Jobs:
    if name != "smollm2":
        return {}
    return Runner(str(models.gguf(FILE.get(dtype, dtype))), threads).jobs(name)


class Runner:
    """One context with room for every stream."""

    def __init__(self, path: str, threads: int) -> None:
        self.llama = llama_cpp.Llama(path, n_ctx=8, verbose=False)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = work.STREAMS * 1024
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_seq_max = work.STREAMS
        settings.n_threads = settings.n_threads_batch = threads
        settings.kv_unified = False
        self.context = llama_cpp.llama_init_from_model(self.llama.model, settings)
        self.vocabulary = self.llama.n_vocab()
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def run(self, rows: Sequence[tuple[int, Sequence[int], int]], *, every: bool = False) -> np.ndarray:
        """The logits after each row, or of `every` token: a row is its first position, its ids and its sequence."""
        batch, at = self.batch, 0
        for start, ids, sequence in rows:
            for offset, token in enumerate(ids):
                batch.token[at], batch.pos[at] = token, start + offset
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
                batch.logits[at] = every or offset == len(ids) - 1
                at += 1
        batch.n_tokens = at
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        count = at if every else len(rows)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), (count, self.vocabulary))

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def decode(self, prompts: list[list[int]]) -> np.ndarray:
        self.clear()
        logits = self.run([(0, prompt, n) for n, prompt in enumerate(prompts)])
        tokens = [logits.argmax(1)]
        for step in range(work.DECODE_TOKENS - 1):
            logits = self.run([(len(p) + step, [int(tokens[-1][n])], n) for n, p in enumerate(prompts)])
            tokens.append(logits.argmax(1))
        return np.stack(tokens, 1)

    def jobs(self, name: str) -> Jobs:
        prompt = work.ids(name, work.PREFILL_TOKENS)
        prompts = work.rows(name, work.STREAMS, work.DECODE_PROMPT)
        texts = work.rows(name, work.SCORE_TEXTS, work.SCORE_TOKENS)

        def prefill() -> np.ndarray:
            self.clear()
            logits = self.run([(0, prompt, 0)])[0]
            best = logits.argmax()
            return np.array([best, -np.log(np.exp(logits - logits[best], dtype=np.float64).sum())])

        running = itertools.cycle(work.windows(name))

        def logprobs(text: list[int]) -> np.ndarray:
            self.clear()
            logits = self.run([(0, text, 0)], every=True)[:-1]
            found = []
            # By rows, as its own perplexity does it: what stays in the cache is not read from memory again.
            for row, label in zip(logits, text[1:], strict=True):
                top = row.max()
                found.append(row[label] - top - np.log(np.exp(row - top).sum()))
            return np.array(found)

        def score() -> np.ndarray:
            return np.array([logprobs(text).sum() for text in texts])

        return {
            "prefill": prefill,
            "decode": lambda: self.decode(prompts[:1])[0],
            "streams": lambda: self.decode(prompts),
            "score": score,
            "windows": lambda: logprobs(next(running)),
        }
