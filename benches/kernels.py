"""`make bench-kernels`: each kernel's rate, its share of this machine's limit, and the ratio to torch and numpy.

One table for one thread and for all. The kernels are timed by the Rust example `speed`, which measures the machine's
peak and bandwidth in the same run, and right after it the peers by as many threads. All times are medians.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

LINE = re.compile(
    r"(?P<threads>\d+)T (?P<name>.+?)\s+(?P<rate>[\d.]+) (?P<unit>G\w+/s)\s+(?P<share>\d+) %\s+(?P<ms>[\d.]+) ms"
)
PRODUCT = re.compile(r"(?:matmul|decode) (?P<weights>\w+) (?P<m>\d+)x(?P<k>\d+)x(?P<n>\d+)")
ATTENTION = re.compile(
    r"attention (?P<sequences>\d+)x(?P<tokens>\d+) (?P<heads>\d+)/(?P<kv>\d+)x(?P<dim>\d+) (?P<kind>causal|full)"
)
Work = Callable[[], object]


def seconds(work: Work) -> float:
    """The median of runs that fill a third of a second, at least five."""
    work()
    runs: list[float] = []
    while len(runs) < 5 or sum(runs) < 0.3:
        start = time.perf_counter()
        work()
        runs.append(time.perf_counter() - start)
    return statistics.median(runs)


def product(weights: str, m: int, k: int, n: int) -> dict[str, Work]:
    """The same product in torch and, in float32, in numpy. Neither has one with weights of four bits."""
    import numpy as np
    import torch

    if weights == "Int4":
        return {}
    x, w = torch.rand(m, k) - 0.5, torch.rand(n, k) - 0.5
    if weights == "Bf16":
        x, w = x.bfloat16(), w.bfloat16()
        return {"torch": lambda: torch.nn.functional.linear(x, w)}
    if weights == "Int8":
        layer = torch.nn.Linear(k, n, bias=False)
        layer.weight.data = w
        quantised = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.Linear})
        return {"torch": lambda: quantised(x)}
    a, b = x.numpy(), np.ascontiguousarray(w.numpy().T)
    return {"torch": lambda: torch.nn.functional.linear(x, w), "numpy": lambda: a @ b}


def attention(sequences: int, tokens: int, heads: int, kv: int, dim: int, *, causal: bool) -> dict[str, Work]:
    """The same attention in torch, keys of fewer heads repeated beforehand."""
    import torch

    q = torch.rand(sequences, heads, tokens, dim)
    k, v = (torch.rand(sequences, kv, tokens, dim).repeat_interleave(heads // kv, 1) for _ in range(2))
    return {"torch": lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)}


def peers(name: str) -> dict[str, Work]:
    """What others have for the kernel of this name."""
    if found := PRODUCT.fullmatch(name):
        return product(found["weights"], *(int(found[part]) for part in "mkn"))
    if found := ATTENTION.fullmatch(name):
        shape = (int(found[part]) for part in ("sequences", "tokens", "heads", "kv", "dim"))
        return attention(*shape, causal=found["kind"] == "causal")
    return {}


def time_peers() -> None:
    """Read names of kernels from standard input; write the seconds of each peer."""
    import torch

    with torch.inference_mode():
        times = {
            name: {peer: seconds(work) for peer, work in peers(name).items()} for name in json.loads(sys.stdin.read())
        }
    print(json.dumps(times))


def peers_with(threads: int, names: list[str]) -> dict[str, dict[str, float]]:
    """The seconds of each peer, by so many threads: libraries read their number once, so in another process."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    child = [sys.executable, "-W", "ignore", __file__, "--peers"]
    done = subprocess.run(
        child, input=json.dumps(names), env=os.environ | limits, check=True, stdout=subprocess.PIPE, text=True
    )
    times: dict[str, dict[str, float]] = json.loads(done.stdout)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("filter", nargs="?", default="", help="only kernels whose name contains this")
    parser.add_argument("--peers", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peers:
        time_peers()
        return
    speed = ["cargo", "run", "--release", "--quiet", "-p", "lmrs-kernels", "--example", "speed", "--", options.filter]
    printed = subprocess.run(speed, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    print("\n".join(line for line in printed if "peak" in line))
    print("| threads | kernel | rate | of the limit | ratio to peers |\n|---|---|---|---|---|")
    lines = [found for line in printed if (found := LINE.match(line))]
    for threads in sorted({int(line["threads"]) for line in lines}):
        ours = [line for line in lines if int(line["threads"]) == threads]
        theirs = peers_with(threads, [line["name"] for line in ours])
        for line in ours:
            times = theirs[line["name"]].items()
            ratios = ", ".join(f"{1e3 * took / float(line['ms']):.2f}× {peer}" for peer, took in times)
            print(f"| {threads} | {line['name']} | {line['rate']} {line['unit']} | {line['share']} % | {ratios} |")


if __name__ == "__main__":
    main()
