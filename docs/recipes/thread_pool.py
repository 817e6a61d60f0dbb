"""Many prompts from a plain thread pool: requests of all threads join one batch, and each gets what it gets alone.

MODEL=smollm2.gguf python thread_pool.py
"""

import os
from concurrent.futures import ThreadPoolExecutor

import lmrs

PROMPTS = ["The sea is", "A cat sat on", "In the beginning", "To be or not"] * 4

with lmrs.Engine(lmrs.load(os.environ["MODEL"]), dtype="int8") as engine, ThreadPoolExecutor(8) as pool:
    together = list(pool.map(lambda prompt: engine.generate(prompt, max_tokens=8), PROMPTS))
    alone = engine.generate(PROMPTS[0], max_tokens=8)
    assert together[0].tokens == together[4].tokens == alone.tokens
    for prompt, completion in zip(PROMPTS[:4], together, strict=False):
        print(prompt + completion.text)
