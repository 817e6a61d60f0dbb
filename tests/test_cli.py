"""The command line, run as a user runs it: help that teaches, JSON under the library's names, one line on bad input."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import click
import numpy as np
import pytest

import lmrs
from lmrs.cli import COMMANDS, main

VIEW = '<meta name="viewport" content="width=device-width, initial-scale=1">'


def run(*arguments: object, stdin: str = "", status: int = 0) -> subprocess.CompletedProcess[str]:
    answer = subprocess.run(
        [sys.executable, "-m", "lmrs", *map(str, arguments)], input=stdin, capture_output=True, text=True, check=False
    )
    assert answer.returncode == status, answer.stderr
    return answer


def refused(*arguments: object, stdin: str = "", status: int = 1) -> str:
    """What a failing command says: one line, no traceback, nothing on standard output."""
    answer = run(*arguments, stdin=stdin, status=status)
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    if status == 1:
        assert len(answer.stderr.splitlines()) == 1
    return answer.stderr


def test_help_lists_every_command() -> None:
    text = run("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name} " in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(name: str) -> None:
    text = run(name, "--help").stdout
    assert text.count(f"lmrs {name}") >= 2, "a usage line and at least one example"
    command = main.get_command(click.Context(main), name)
    for part in command.commands if isinstance(command, click.Group) else ("",):
        # A server prints nothing that a program would read.
        assert name == "serve" or "--json" in run(name, *part.split(), "--help").stdout


def test_version() -> None:
    assert run("--version").stdout.strip().endswith(lmrs.__version__)


def test_info_of_this_machine() -> None:
    facts = json.loads(run("info", "--json").stdout)
    assert facts["instruction_set"] in {"scalar", "avx2", "avx512", "avx512-vnni", "avx512-bf16"}
    assert facts["threads"] >= 1
    assert facts["version"] == lmrs.__version__


def test_info_of_a_model(smollm2_gguf: Path) -> None:
    facts = json.loads(run("info", smollm2_gguf, "--json").stdout)
    assert facts["family"] == "llama"
    assert facts["parameters"] == 134_515_008
    assert facts["config"]["layers"] == 30
    assert facts["tokenizer"]["vocabulary"] == 49_152
    assert facts["mismatches"] == []
    text = run("info", smollm2_gguf).stdout
    assert "134,515,008" in text


def test_info_names_a_mismatch(tmp_path: Path, minilm_dir: Path) -> None:
    for name in ("model.safetensors", "vocab.txt", "tokenizer.json"):
        (tmp_path / name).symlink_to(minilm_dir / name)
    config = json.loads((minilm_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 1000}))
    facts = json.loads(run("info", tmp_path, "--json").stdout)
    assert any("intermediate" in line and "1000" in line for line in facts["mismatches"])
    assert "mismatch" in run("info", tmp_path).stdout


def test_tokenize(smollm2_gguf: Path, tmp_path: Path) -> None:
    text = "Hello, wörld 🙂"
    answer = json.loads(run("tokenize", smollm2_gguf, text, "--json").stdout)
    encoding = lmrs.Tokenizer.load(smollm2_gguf).encode(text)
    assert answer["ids"] == list(encoding.ids)
    assert [tuple(pair) for pair in answer["offsets"]] == [tuple(pair) for pair in encoding.offsets]
    (tmp_path / "text").write_text(text, encoding="utf-8")
    assert json.loads(run("tokenize", smollm2_gguf, tmp_path / "text", "--file", "--json").stdout) == answer


def test_generate(smollm2_gguf: Path) -> None:
    arguments = ("generate", smollm2_gguf, "The capital of France is", "--max-tokens", 8)
    answer = json.loads(run(*arguments, "--json").stdout)
    assert answer.keys() == {"text", "tokens", "logprobs", "finish_reason", "top_logprobs", "beams"}
    assert "Paris" in answer["text"]
    assert len(answer["tokens"]) == len(answer["logprobs"]) == 8
    assert answer["finish_reason"] == "length"
    assert run(*arguments).stdout == f"The capital of France is{answer['text']}\n"


def test_seeds(smollm2_gguf: Path) -> None:
    def sample(seed: int) -> str:
        return run(
            "generate", smollm2_gguf, "Once", "--max-tokens", 12, "--temperature", 1.0, "--top-p", 0.95, "--seed", seed
        ).stdout

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_chat(smollm2_gguf: Path) -> None:
    answer = run(
        "chat", smollm2_gguf, "--max-tokens", 12, "--json", stdin="Say hello.\n\nWhat is the capital of France?\n"
    )
    first, second = [json.loads(line) for line in answer.stdout.splitlines()]
    assert first["text"]
    assert "Paris" in second["text"]


def test_ppl(smollm2_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\n".join(["The quick brown fox jumps over the lazy dog."] * 20), encoding="utf-8")
    score = json.loads(run("ppl", smollm2_gguf, tmp_path / "text", "--json").stdout)
    assert score["protocol"] == "rolling"
    assert score["bytes"] == 899
    assert score["words"] == 180
    assert score["perplexity"] == pytest.approx(np.exp(-score["sum_logprob"] / score["tokens"]))
    piped = run("ppl", smollm2_gguf, "-", stdin=(tmp_path / "text").read_text()).stdout
    assert f"{score['perplexity']:.4f}" in piped


def test_embed(minilm_dir: Path) -> None:
    lines = ["A cat sat on the mat.", "A kitten rests on a rug.", "Interest rates rose."]
    vectors = np.array(json.loads(run("embed", minilm_dir, *lines, "--json").stdout)["embeddings"])
    assert vectors.shape == (3, 384)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > cosines[0, 2] + 0.2
    piped = json.loads(run("embed", minilm_dir, "-", "--json", stdin="\n".join(lines)).stdout)["embeddings"]
    assert np.array_equal(np.array(piped), vectors)


def test_tune_then_generate(smollm2_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("My fellow citizens, " * 200, encoding="utf-8")
    out = tmp_path / "adapter"
    arguments = ("--out", out, "--steps", 3, "--context", 32, "--batch-tokens", 64, "--rate", 1e-3)
    answer = run("tune", smollm2_gguf, tmp_path / "text", *arguments, "--json")
    result = json.loads(answer.stdout)
    assert len(result["losses"]) == 3
    assert result["losses"][-1] < result["losses"][0]
    assert (out / "adapter_config.json").exists()
    assert "loss" in answer.stderr
    tuned = run("generate", smollm2_gguf, "My fellow", "--delta", out, "--max-tokens", 4).stdout
    assert tuned.startswith("My fellow")


def test_demo(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    outcome = json.loads(run("demo", "--steps", 6, "--report", page, "--json").stdout)
    learning, tuning, preferring = outcome["tables"]
    (_, before, after, *_), *_ = learning["rows"]
    assert float(after.replace(",", "")) < float(before.replace(",", ""))
    assert [row[0] for row in tuning["rows"]] == ["Shakespeare", "inaugural addresses"]
    accuracy, margin, _ = preferring["rows"]
    assert 0.5 <= float(accuracy[2].split()[0]) <= 1
    assert float(margin[2].split()[0]) > 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 3
    assert text.count("<mark>") == 4
    for outside in ("http", "src=", "<script", "<link", "@import", "url("):
        assert outside not in text
    ElementTree.fromstring(text.removeprefix("<!doctype html>").replace('<meta charset="utf-8">', "").replace(VIEW, ""))


def test_demo_on_a_checkpoint(smollm2_gguf: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run("demo", "--model", smollm2_gguf, "--steps", 1, "--report", page)
    assert "SmolLM2" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("generate", "no-such-model", "x"), "no-such-model"),
        (("info", "no-such-model"), "no-such-model"),
        (("tokenize", "no-such-model", "x"), "no-such-model"),
        (("ppl", "{model}", "no-such-text"), "no-such-text"),
        (("generate", "{model}", "x", "--temperature", "-1"), "temperature"),
        (("generate", "{model}", "x", "--top-p", "7"), "top_p"),
        (("ppl", "{model}", "{empty}"), "empty"),
        (("generate", "{junk}", "x"), "junk"),
        (("tune", "{model}", "{empty}", "--out", "{out}"), "empty"),
        (("tune", "{model}", "{junk}", "--out", "{out}", "--rank", "0"), "rank"),
    ],
)
def test_bad_input_is_one_line(arguments: Sequence[str], said: str, smollm2_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "junk.gguf").write_text("GGUFnonsense")
    names = {
        "model": smollm2_gguf,
        "empty": tmp_path / "empty",
        "junk": tmp_path / "junk.gguf",
        "out": tmp_path / "out",
    }
    assert said in refused(*(argument.format(**names) for argument in arguments))
    assert not (tmp_path / "out").exists()


def test_a_wrong_command_or_option_is_a_usage_error(smollm2_gguf: Path) -> None:
    assert "No such command" in refused("fly", status=2)
    assert "--max-tokens" in refused("generate", smollm2_gguf, "x", "--max-tokens", "many", status=2)


@pytest.mark.parametrize("setting", ["LMRS_SIMD=mmx", "LMRS_NUM_THREADS=0", "LMRS_NUM_THREADS=two"])
def test_a_wrong_setting_of_the_machine_is_one_line(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*setting.split("="))
    assert setting in refused("info")
