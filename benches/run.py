"""`make bench`: lmrs beside transformers, torch and PEFT, job by job, turn by turn.

Each runner lives in a process of its own with the same number of threads, and they take turns run by run, so that a
busy moment of the machine falls on both. A row is printed only if the two answers agree.
"""

import argparse
import datetime
import importlib
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import work

RUNNERS = ("ours", "peers")


def serve(pipe: Connection, runner: str, threads: int) -> None:
    """Prepare a runner's jobs, then run the one that is asked for and answer with its seconds and result."""
    jobs = importlib.import_module(runner).jobs(threads)
    pipe.send(importlib.import_module(runner).versions())
    while (name := pipe.recv()) is not None:
        start = time.perf_counter()
        answer = jobs[name]()
        pipe.send((time.perf_counter() - start, answer))


@contextmanager
def runners(threads: int) -> Iterator[tuple[dict[str, Connection], dict[str, str]]]:
    """The runners' pipes and versions. The environment is set before any library of theirs is loaded."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LMRS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for runner in RUNNERS:
        pipes[runner], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(theirs, runner, threads), daemon=True))
        processes[-1].start()
        theirs.close()
    yield pipes, {runner: pipe.recv() for runner, pipe in pipes.items()}
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(None)
        process.join()


def measure(job: work.Job, pipes: dict[str, Connection], rounds: int) -> dict[str, object]:
    """Medians of `rounds` runs each, turn by turn, after one warm-up whose answers are compared."""

    def run(runner: str) -> tuple[float, np.ndarray]:
        pipes[runner].send(job.name)
        return pipes[runner].recv()

    answers = [run(runner)[1] for runner in RUNNERS]
    difference = float(np.max(np.abs(answers[0].astype(np.float64) - answers[1])))
    largest = max(1.0, float(np.max(np.abs(answers[1]))))
    if difference > job.tolerance * largest:
        raise SystemExit(f"{job.name}: the answers differ by {difference:.3g}; a speed would mean nothing")
    seconds = {runner: [] for runner in RUNNERS}
    for _ in range(rounds):
        for runner in RUNNERS:
            seconds[runner].append(run(runner)[0])
    rates = {runner: job.units / statistics.median(seconds[runner]) for runner in RUNNERS}
    return {
        "job": job.name,
        "what": job.what,
        "unit": job.unit,
        "lmrs": rates["ours"],
        "peers": rates["peers"],
        "ratio": rates["ours"] / rates["peers"],
        "difference": difference,
        "seconds": {"lmrs": seconds["ours"], "peers": seconds["peers"]},
    }


def cpu() -> str:
    """The processor's name as Linux gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="for both runners")
    parser.add_argument("--rounds", type=int, default=5, help="measured runs of each job and runner")
    parser.add_argument("--only", choices=[job.name for job in work.JOBS], help="one job alone", nargs="+")
    options = parser.parse_args()
    with runners(options.threads) as (pipes, versions):
        chosen = [job for job in work.JOBS if not options.only or job.name in options.only]
        rows = [measure(job, pipes, options.rounds) for job in chosen]
    facts = {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu(),
        "threads": options.threads,
        "rounds": options.rounds,
        "versions": ", ".join(versions.values()),
    }
    if options.json:
        json.dump({**facts, "rows": rows}, sys.stdout, indent=2)
        return
    table = Table(caption="; ".join(f"{name}: {value}" for name, value in facts.items()))
    for column in ("job", "lmrs", "transformers/PEFT", "", "ratio"):
        table.add_column(column, justify="left" if column in ("job", "") else "right")
    for row in rows:
        table.add_row(
            row["what"],
            f"{row['lmrs']:,.1f}",
            f"{row['peers']:,.1f}",
            row["unit"],
            f"{row['ratio']:.2f}×",
            end_section=True,
        )
    Console().print(table)


if __name__ == "__main__":
    main()
