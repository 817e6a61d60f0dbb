"""Names of the Hugging Face hub where a path is expected, against a hub on this machine that speaks its protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import lmrs
from lmrs import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories, each a directory of files, behind the three routes a download asks for."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = unquote(urlsplit(handler.path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, verb, revision, *rest = [*(parts[2:] if api else parts), *([""] * 4)][: max(4, len(parts))]
        directory = self.repositories.get(f"{owner}/{name}")
        headers = {"X-Repo-Commit": COMMIT}
        if directory is None:
            return self.send(handler, 404, {"X-Error-Code": "RepoNotFound"}, b"{}")
        if owner == "gated":
            return self.send(handler, 403, {"X-Error-Code": "GatedRepo"}, b"{}")
        if revision not in ("main", "v1", COMMIT):
            return self.send(handler, 404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
        files = {str(file.relative_to(directory)): file for file in directory.rglob("*") if file.is_file()}
        if api and verb == "revision":
            siblings = [{"rfilename": file} for file in files]
            data = json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}).encode()
        elif api:
            listing = [
                {"type": "file", "path": file, "size": path.stat().st_size, "oid": _etag(path)}
                for file, path in files.items()
            ]
            data = json.dumps(listing).encode()
        elif (file := files.get("/".join(filter(None, rest)))) is not None:
            self.asked.append(f"{handler.command} {file.name}")
            data, headers = file.read_bytes(), headers | {"ETag": f'"{_etag(file)}"'}
        else:
            return self.send(handler, 404, {"X-Error-Code": "EntryNotFound"}, b"{}")
        return self.send(handler, 200, headers, data)

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data)

    def fetched(self) -> set[str]:
        return {line.removeprefix("GET ") for line in self.asked if line.startswith("GET ")}


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def a_hub(fixtures: Path, smollm2_gguf: Path, tmp_path: Path) -> Iterator[Hub]:
    served = tmp_path / "served"
    served.mkdir()
    for file in (fixtures / "models" / "gpt2").iterdir():
        (served / file.name).write_bytes(file.read_bytes())
    (served / "pytorch_model.bin").write_bytes(b"\x80\x02 a pickle nobody reads")
    quants = tmp_path / "quants"
    quants.mkdir()
    (quants / "tiny.gguf").write_bytes((fixtures / "gguf" / "typed.gguf").read_bytes())
    found = Hub({"org/gpt2-tiny": served, "org/quants": quants, "gated/model": served})
    yield found
    found.server.shutdown()
    found.server.server_close()


def run(program: str, hub: Hub | str, home: Path, **environment: str) -> str:
    """What a fresh process prints, whose hub is ``hub`` and whose cache is empty or an earlier run's."""
    address = hub if isinstance(hub, str) else hub.address
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=kept | own | environment, capture_output=True, text=True, cwd=home
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


LOAD = """
import lmrs
try:
    model = lmrs.load({name!r})
    print(model.config.family, sum(p.size for p in model.named_parameters().values()), model.source.name)
except lmrs.Error as error:
    print(type(error).__name__, error)
"""


def test_a_model_is_fetched_once_and_without_pickles(a_hub: Hub, fixtures: Path, tmp_path: Path) -> None:
    model = lmrs.load(fixtures / "models" / "gpt2")
    parameters = sum(parameter.size for parameter in model.named_parameters().values())
    first = run(LOAD.format(name="org/gpt2-tiny"), a_hub, tmp_path)
    assert first == f"gpt2 {parameters} {COMMIT}"
    assert "model.safetensors" in a_hub.fetched()
    assert "pytorch_model.bin" not in a_hub.fetched()
    a_hub.asked.clear()
    assert run(LOAD.format(name="org/gpt2-tiny@v1"), a_hub, tmp_path) == first
    assert a_hub.fetched() == set()
    assert run(LOAD.format(name="org/gpt2-tiny"), a_hub, tmp_path, HF_HUB_OFFLINE="1") == first


def test_one_file_of_a_repository(a_hub: Hub, tmp_path: Path) -> None:
    program = "from lmrs import hub\nprint(hub.local('org/quants/tiny.gguf', hub.MODEL).name)"
    assert run(program, a_hub, tmp_path) == "tiny.gguf"
    assert a_hub.fetched() == {"tiny.gguf"}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("org/nothing", "MissingFileError org/nothing: no such file or directory, and not on the hub"),
        ("org/gpt2-tiny@never", "MissingFileError org/gpt2-tiny@never: no such file or directory, and not on the hub"),
        ("org/quants/other.gguf", "MissingFileError org/quants/other.gguf: no such file or directory, and not on"),
        ("gated/model", "FileError gated/model: the hub gives it to those it knows (HF_TOKEN)"),
        ("org/a--b", "InputError org/a--b: no file, and no name of the hub"),
    ],
)
def test_what_the_hub_does_not_have(a_hub: Hub, tmp_path: Path, name: str, error: str) -> None:
    assert run(LOAD.format(name=name), a_hub, tmp_path).startswith(error)


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    said = run(LOAD.format(name="org/gpt2-tiny"), "http://127.0.0.1:9", tmp_path)
    assert said.startswith("FileError org/gpt2-tiny: not on this machine, and the hub cannot be reached")


def test_without_the_extra_the_error_names_it(tmp_path: Path) -> None:
    program = "import sys; sys.modules['huggingface_hub'] = None\n" + LOAD.format(name="org/gpt2-tiny")
    said = run(program, "http://127.0.0.1:9", tmp_path)
    assert said.startswith("MissingFileError org/gpt2-tiny: no such file or directory; lmrs[hub]")


@pytest.mark.parametrize("path", ["/org/name", "./org/name", "name", "a/b/c", "../x", "org/name/model.bin", "org/", ""])
def test_other_paths_are_left_alone(path: str) -> None:
    assert hub.local(path, hub.MODEL) == Path(path)


def test_what_is_here_is_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert hub.local("org/name", hub.MODEL) == Path("org/name")
