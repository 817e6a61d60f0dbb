"""Training a byte-level BPE on a file of text, beside the `tokenizers` library: seconds, and whether the merges agree.

    python benches/tokenizer_training.py TEXT [--vocab-size 32000] [--megabytes 100] [--cores 1]

Each library reads the same lines and runs in a process of its own, which has so many cores. Seconds are those of the
clock and those of the processor, all threads together; what else runs on the machine disturbs the latter less. Reading
the file is not counted.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Merges = list[list[str]]


def lines(path: Path, megabytes: float) -> list[str]:
    return path.read_bytes()[: int(megabytes * 1e6)].decode(errors="ignore").splitlines(keepends=True)


def lmrs(texts: list[str], vocab_size: int) -> Callable[[], Merges]:
    from lmrs.tokenizer import Tokenizer

    def train() -> Merges:
        merges: Merges = json.loads(Tokenizer.train(texts, vocab_size=vocab_size).native.to_json())["model"]["merges"]
        return merges

    return train


def tokenizers(texts: list[str], vocab_size: int) -> Callable[[], Merges]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    def train() -> Merges:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        tokenizer.train_from_iterator(texts, trainer, length=len(texts))
        merges: Merges = json.loads(tokenizer.to_str())["model"]["merges"]
        return merges

    return train


LIBRARIES = {"lmrs": lmrs, "tokenizers": tokenizers}


def measure(library: str, path: Path, vocab_size: int, megabytes: float) -> dict[str, Any]:
    texts = lines(path, megabytes)
    train = LIBRARIES[library](texts, vocab_size)
    clock, processor = time.perf_counter(), time.process_time()
    merges = train()
    return {
        "clock": time.perf_counter() - clock,
        "processor": time.process_time() - processor,
        "merges": len(merges),
        "digest": hashlib.sha256(json.dumps(merges).encode()).hexdigest(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--libraries", nargs="+", choices=list(LIBRARIES), default=list(LIBRARIES))
    parser.add_argument("--child", choices=list(LIBRARIES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-arguments.cores :])
        print(json.dumps(measure(arguments.child, arguments.text, arguments.vocab_size, arguments.megabytes)))
        return
    results: dict[str, dict[str, Any]] = {}
    for library in arguments.libraries:
        threads = {"RAYON_NUM_THREADS": str(arguments.cores)}
        command = [sys.executable, __file__, *sys.argv[1:], "--child", library]
        done = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=True)
        result = results[library] = json.loads(done.stdout)
        print(
            f"{library:10} {result['clock']:7.1f} s of the clock, {result['processor']:7.1f} s of the processor, "
            f"{result['merges']} merges, sha256 {result['digest'][:16]}",
            flush=True,
        )
    if len(results) == len(LIBRARIES):
        same = results["lmrs"]["digest"] == results["tokenizers"]["digest"]
        times = results["tokenizers"]["processor"] / results["lmrs"]["processor"]
        print(f"merges {'equal' if same else 'DIFFER'}; lmrs is {times:.2f} times as fast, by the processor's time")


if __name__ == "__main__":
    main()
