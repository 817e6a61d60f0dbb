"""The perplexity of a text file by lmrs and from transformers' logits, by the same windows.

    python benches/wikitext.py MODEL.gguf wiki.test.txt --window 1024 --characters 100000

Prints both and their relative difference, which should be at most 1e-5.
"""

import argparse
import gzip
import math
import time
from pathlib import Path

import torch
import transformers

import lmrs
from lmrs.eval.protocols import Frame, windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path, help="UTF-8, possibly gzipped")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--characters", type=int, help="only so many of the text")
    given = parser.parse_args()
    data = given.text.read_bytes()
    text = (gzip.decompress(data) if given.text.suffix == ".gz" else data).decode()[: given.characters]

    engine = lmrs.Engine(lmrs.load(given.model))
    start = time.perf_counter()
    ours = engine.score(text, window=given.window)
    print(f"lmrs          {ours.perplexity:.8f}  {ours.tokens} tokens, {time.perf_counter() - start:.0f} s", flush=True)

    peer = transformers.AutoModelForCausalLM.from_pretrained(given.model.parent, gguf_file=given.model.name).eval()
    ids = engine.tokenizer.encode(text, add_special_tokens=False).ids
    frame = Frame(context=engine.config.context, window=given.window, prefix=engine.tokenizer.bos_id)
    start, nll = time.perf_counter(), 0.0
    for window in windows(ids, protocol="rolling", frame=frame):
        with torch.inference_mode():
            logits = peer(torch.tensor([list(window.inputs)])).logits[0, -len(window.targets) :]
        nll += torch.nn.functional.cross_entropy(logits.double(), torch.tensor(window.targets), reduction="sum").item()
    theirs = math.exp(nll / len(ids))
    print(f"transformers  {theirs:.8f}  {len(ids)} tokens, {time.perf_counter() - start:.0f} s")
    print(f"relative difference {abs(ours.perplexity - theirs) / theirs:.2e}")


if __name__ == "__main__":
    main()
