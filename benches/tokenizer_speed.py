"""Megabytes of UTF-8 a second that tokenizers turn into ids, on one core, every one over the same documents in one run.

    python benches/tokenizer_speed.py TOKENIZER.json... [--texts DIRECTORY] [--megabytes 6] [--peers lmrs gigatoken]

"fresh" is the first pass of a tokenizer that has seen nothing, "warm" the best of two more, in seconds of the
processor, which neighbours on a shared machine disturb less than those of the clock. Each peer that is installed and
loads the same file runs in a process of its own; one whose ids differ from those of the `tokenizers` library is marked
with the share of documents that do. Then all documents are given in one call, on one core and on two, by the clock.
Texts are `eng.txt`, `multi.txt` and `code.txt` of a directory, or what is at hand: the sources and descriptions of the
Python packages installed here.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Encode = Callable[[str], Iterable[int]]

DOCUMENT = 4000

# All documents in one call.
TOGETHER = "lmrs, one call"


def ours(file: str) -> Encode:
    import lmrs

    tokenizer = lmrs.Tokenizer.load(file)
    return lambda text: tokenizer.encode_rows([text], add_special_tokens=False).ids


def ours_with_offsets(file: str) -> Encode:
    import lmrs

    tokenizer = lmrs.Tokenizer.load(file)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def tokenizers(file: str) -> Encode:
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def gigatoken(file: str) -> Encode:
    encode: Encode = importlib.import_module("gigatoken").Tokenizer(file).encode
    return encode


def fastokens(file: str) -> Encode:
    tokenizer = importlib.import_module("fastokens").Tokenizer.from_file(file)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def tokie(file: str) -> Encode:
    tokenizer = importlib.import_module("tokie").Tokenizer.from_json(file)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


PEERS: dict[str, Callable[[str], Encode]] = {
    "lmrs": ours,
    "lmrs with offsets": ours_with_offsets,
    "tokenizers": tokenizers,
    "gigatoken": gigatoken,
    "fastokens": fastokens,
    "tokie": tokie,
}


def texts(directory: Path | None, megabytes: float) -> Iterator[tuple[str, str]]:
    limit = int(megabytes * 1e6)
    if directory is not None:
        for name in ("eng", "multi", "code"):
            text = (directory / f"{name}.txt").read_bytes()[:limit]
            yield name, text.decode(errors="ignore")
        return
    site = Path(sysconfig.get_paths()["purelib"])
    for name, pattern in (("code", "*/*.py"), ("prose", "*/METADATA")):
        parts, size = [], 0
        for file in sorted(site.glob(pattern)):
            part = file.read_text(encoding="utf-8", errors="ignore")
            parts.append(part)
            if (size := size + len(part)) > limit:
                break
        yield name, "".join(parts)


def documents(text: str) -> list[str]:
    """Lines in documents of about `DOCUMENT` characters."""
    found: list[str] = []
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        if (size := size + len(line)) >= DOCUMENT:
            found.append("".join(lines))
            lines, size = [], 0
    return [*found, "".join(lines)] if lines else found


def measure(peer: str, file: str, directory: Path | None, megabytes: float) -> dict[str, Any]:
    PEERS[peer](file)  # what is imported is not loaded again
    start = time.process_time()
    PEERS[peer](file)
    result: dict[str, Any] = {"load": time.process_time() - start, "texts": {}}
    for name, text in texts(directory, megabytes):
        parts = documents(text)
        size = sum(len(part.encode()) for part in parts) / 1e6
        encode = PEERS[peer](file)
        rates = []
        for _ in range(3):
            start = time.process_time()
            ids = [encode(part) for part in parts]
            rates.append(size / (time.process_time() - start))
        digests = [hash(tuple(int(token) for token in part)) for part in ids]
        result["texts"][name] = {"fresh": rates[0], "warm": max(rates[1:]), "ids": digests}
    prompt = documents(text)[0][:2000]
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(200):
            encode(prompt)
        rounds.append((time.process_time() - start) / 200)
    result["prompt"] = min(rounds)
    return result


def measure_together(file: str, directory: Path | None, megabytes: float) -> float:
    """MB/s of all documents in one call, of the clock, on as many cores as there are."""
    import lmrs

    tokenizer = lmrs.Tokenizer.load(file)
    parts = [part for _, text in texts(directory, megabytes) for part in documents(text)]
    size = sum(len(part.encode()) for part in parts) / 1e6
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        tokenizer.encode_rows(parts, add_special_tokens=False)
        rates.append(size / (time.perf_counter() - start))
    return max(rates)


def run(peer: str, arguments: argparse.Namespace, file: str, cores: int = 1) -> Any:
    """What is measured in a process of its own on so many cores; or a line that says why there is nothing."""
    command = [sys.executable, __file__, file, "--megabytes", str(arguments.megabytes), "--child", peer]
    command += ["--cores", str(cores)]
    if arguments.texts is not None:
        command += ["--texts", str(arguments.texts)]
    # Hashes of ids are compared between processes.
    one = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=os.environ | one, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["it ended without a word"])[-1][:90]
    return json.loads(done.stdout)


def versions() -> str:
    names = ["lmrs", *(name for name in PEERS if " " not in name and name != "lmrs")]
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="TOKENIZER.json")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--megabytes", type=float, default=6.0)
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--child", choices=[*PEERS, TOGETHER], help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-arguments.cores :])
    if arguments.child == TOGETHER:
        print(json.dumps(measure_together(arguments.files[0], arguments.texts, arguments.megabytes)))
        return
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments.files[0], arguments.texts, arguments.megabytes)))
        return
    print(f"MB/s, one core: fresh / warm. {versions()}")
    for file in arguments.files:
        results = {peer: run(peer, arguments, file) for peer in arguments.peers}
        reference = results.get("tokenizers")
        print(f"\n{file}")
        for peer, result in results.items():
            if isinstance(result, str):
                print(f"  {peer:18} {result}")
                continue
            cells = [f"load {result['load'] * 1e3:4.0f} ms", f"2 KB {result['prompt'] * 1e6:4.0f} us"]
            for name, text in result["texts"].items():
                cell = f"{name} {text['fresh']:.0f} / {text['warm']:.0f}"
                if isinstance(reference, dict):
                    right = reference["texts"][name]["ids"]
                    wrong = sum(a != b for a, b in zip(text["ids"], right, strict=True))
                    cell += f" ({wrong / len(right):.1%} differ)" if wrong else ""
                cells.append(cell)
            print(f"  {peer:18} " + "   ".join(cells), flush=True)
        one, two = (run(TOGETHER, arguments, file, cores) for cores in (1, 2))
        if isinstance(one, float) and isinstance(two, float):
            print(f"  {TOGETHER:18} {one:.0f} MB/s on one core, {two:.0f} on two: {two / one:.2f} times", flush=True)


if __name__ == "__main__":
    main()
