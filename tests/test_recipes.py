"""The recipes of docs/recipes, as a user would run them."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from lmrs import Engine, delta, models
from lmrs.backend import native

RECIPES = Path(__file__).parent.parent / "docs" / "recipes"
SECONDS = 90


@pytest.fixture(scope="module")
def expected(smollm2_gguf: Path) -> str:
    with Engine(models.load(smollm2_gguf), dtype="int8") as engine:
        return engine.generate("The sea is", max_tokens=8).text


def environment(model: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "MODEL": str(model), **more}


@contextlib.contextmanager
def running(command: list[str], model: Path) -> Iterator[httpx.Client]:
    """A client of a server that `command` starts; `PORT` in it is a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [part.replace("PORT", str(port)) for part in command]
    process = subprocess.Popen([sys.executable, "-m", *line], cwd=RECIPES, env=environment(model))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
            end = time.monotonic() + SECONDS
            while True:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < end, "the server did not start"
                with contextlib.suppress(httpx.TransportError):
                    client.get("/")
                    break
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait(SECONDS)


ASKED = {"model": "model", "prompt": "The sea is", "max_tokens": 8, "temperature": 0}


def test_fastapi_mount(smollm2_gguf: Path, expected: str) -> None:
    with running(["uvicorn", "--port", "PORT", "--log-level", "error", "fastapi_mount:app"], smollm2_gguf) as client:
        answer = client.post("/lm/v1/completions", json=ASKED)
        assert answer.json()["choices"][0]["text"] == expected
        own = client.get("/continue", params={"text": "The sea is"})
        assert own.json()["text"].startswith(expected)
        assert client.get("/lm/ready").status_code == 200
        assert "text/html" in client.get("/lm/").headers["content-type"]


def test_gunicorn_preload(smollm2_gguf: Path, expected: str) -> None:
    command = ["gunicorn", "--preload", "--workers", "2", "--worker-class", "asgi", "--bind", "127.0.0.1:PORT"]
    with running([*command, "--log-level", "error", "gunicorn_preload:app"], smollm2_gguf) as client:
        for _ in range(6):
            # A connection each, so that both workers get some.
            answer = httpx.post(client.base_url.join("/v1/completions"), json=ASKED, timeout=SECONDS)
            assert answer.json()["choices"][0]["text"] == expected


def test_thread_pool(smollm2_gguf: Path, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "thread_pool.py"],
        cwd=RECIPES,
        env=environment(smollm2_gguf),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert done.stdout.startswith("The sea is" + expected)


RAY = """
import json, os, ray
from ray import serve
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
import ray_serve
handle = serve.run(ray_serve.app, name="recipe", route_prefix="/")
import httpx
for name in ("", "one", "two", "one"):
    headers = {"serve_multiplexed_model_id": name} if name else {}
    asked = {"prompt": "The sea is", "max_tokens": 8}
    answer = httpx.post("http://127.0.0.1:8000/", json=asked, headers=headers, timeout=90)
    print("ANSWER", json.dumps([name, answer.json()["text"]]), flush=True)
serve.shutdown()
ray.shutdown()
"""


@pytest.mark.slow
def test_ray_serve(smollm2_gguf: Path, expected: str, tmp_path: Path) -> None:
    model: Any = models.load(smollm2_gguf)
    draw, texts = np.random.default_rng(5), {"": expected}
    with Engine(model, dtype="int8") as engine:
        for name in ("one", "two"):
            tuned = delta.LoRA(rank=2)(model)
            for parameter in tuned.named_parameters().values():
                if parameter.trainable:
                    values = native.tensor(parameter).numpy() + draw.normal(0, 0.2, parameter.shape)
                    parameter.data = native.array(values.astype(np.float32)).tensor
            delta.save(tuned, tmp_path / name)
            engine.load_delta(name, tmp_path / name)
            texts[name] = engine.generate("The sea is", max_tokens=8, delta=name).text
    done = subprocess.run(
        [sys.executable, "-c", RAY],
        cwd=RECIPES,
        env=environment(smollm2_gguf, DELTAS=str(tmp_path), PYTHONPATH=os.pathsep.join([str(RECIPES), *sys.path])),
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )
    answers = [json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert answers == [[name, texts[name]] for name in ("", "one", "two", "one")], done.stderr[-2000:]
