"""`make bench-kernels`: each kernel's rate, its share of this machine's limit, and the ratio to torch and numpy.

The kernels are timed by the Rust example `speed`, which measures the machine's peak and bandwidth in the same run; then
the peers twice, of which the better counts.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

LINE = re.compile(r"(?P<threads>\d+)T (?P<name>.+?)\s+(?P<rate>[\d.]+) (?P<unit>G\w+/s)\s+(?P<share>\d+) %")
SHAPE = re.compile(r"(?P<kind>matmul|decode) (?P<weights>\w+) (?P<m>\d+)x(?P<k>\d+)x(?P<n>\d+)")


def seconds(work: Callable[[], object]) -> float:
    """The median of runs that fill a third of a second, at least five."""
    work()
    runs: list[float] = []
    while len(runs) < 5 or sum(runs) < 0.3:
        start = time.perf_counter()
        work()
        runs.append(time.perf_counter() - start)
    return statistics.median(runs)


def products(name: str) -> dict[str, Callable[[], object]]:
    """The same product in torch and, in float32, in numpy."""
    import numpy as np
    import torch

    found = SHAPE.fullmatch(name)
    if found is None or found["weights"] == "Int4":
        return {}
    m, k, n = (int(found[part]) for part in "mkn")
    x, w = torch.rand(m, k) - 0.5, torch.rand(n, k) - 0.5
    if found["weights"] == "Bf16":
        x, w = x.bfloat16(), w.bfloat16()
        return {"torch": lambda: torch.nn.functional.linear(x, w)}
    if found["weights"] == "Int8":
        layer = torch.nn.Linear(k, n, bias=False)
        layer.weight.data = w
        quantised = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(layer), {torch.nn.Linear})
        return {"torch": lambda: quantised(x)}
    a, b = x.numpy(), np.ascontiguousarray(w.numpy().T)
    return {"torch": lambda: torch.nn.functional.linear(x, w), "numpy": lambda: a @ b}


def peers(names: list[str], best: dict[tuple[str, str], float]) -> None:
    """Add the seconds of each peer to `best`, where they are fewer."""
    import torch

    for name in names:
        with torch.inference_mode():
            for peer, work in products(name).items():
                best[name, peer] = min(best.get((name, peer), float("inf")), seconds(work))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("filter", nargs="?", default="", help="only kernels whose name contains this")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LMRS_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    speed = ["cargo", "run", "--release", "--quiet", "-p", "lmrs-kernels", "--example", "speed", "--", options.filter]
    done = subprocess.run(speed, check=True, capture_output=True, text=True).stdout
    # An example that times one thread and then all prints both: these threads' lines are ours.
    lines = [
        found for line in done.splitlines() if (found := LINE.match(line)) and int(found["threads"]) == options.threads
    ]
    best: dict[tuple[str, str], float] = {}
    for _ in range(2):
        peers([line["name"] for line in lines], best)
    sys.stdout.write(done.split("\n", 1)[0] + "\n")
    for line in lines:
        found = SHAPE.fullmatch(line["name"])
        ratios = ""
        if found is not None:
            work = 2 * int(found["m"]) * int(found["k"]) * int(found["n"])
            bytes_ = (
                {"F32": 4, "Bf16": 2, "Int8": 1, "Int4": 0.625}[found["weights"]] * int(found["k"]) * int(found["n"])
            )
            amount = work if line["unit"] == "GF/s" else bytes_
            for peer in ("torch", "numpy"):
                if (line["name"], peer) in best:
                    theirs = amount / best[line["name"], peer] / 1e9
                    ratios += f"  {float(line['rate']) / theirs:5.2f}× {peer}"
        print(f"{line['name']:36}{line['rate']:>9} {line['unit']:5}{line['share']:>4} %{ratios}")


if __name__ == "__main__":
    main()
