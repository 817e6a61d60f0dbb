"""The README is true: its Python runs, its commands run, its targets exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_gguf: Path, minilm_dir: Path) -> Path:
    """A reader's directory, with the two models under the names the README uses."""
    (tmp_path / "SmolLM2-135M-Instruct.gguf").symlink_to(smollm2_gguf)
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(minilm_dir)
    speeches = (ROOT / "python" / "lmrs" / "demo" / "corpus" / "inaugural.txt").read_text(encoding="utf-8")
    (tmp_path / "speeches.txt").write_text(speeches[:4000], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_runs(reader: Path) -> None:
    found = blocks("python")
    assert found
    namespace: dict[str, object] = {}
    for block in found:
        exec(compile(block, "README.md", "exec"), namespace)  # each block goes on where the last one stopped
    assert (reader / "my-adapter" / "adapter_model.safetensors").exists()


def test_the_commands_run(reader: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("lmrs ")]
    assert len(lines) >= 5
    for line in lines:
        arguments = shlex.split(line, comments=True)[1:]
        answer = subprocess.run(
            [sys.executable, "-m", "lmrs", *arguments], capture_output=True, text=True, check=False, cwd=reader
        )
        assert answer.returncode == 0, f"{line}\n{answer.stderr}"
        assert answer.stdout.strip(), line


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"demo", "test"} <= named <= targets
