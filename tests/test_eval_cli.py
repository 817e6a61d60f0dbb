"""`lmrs eval`, `lmrs pll` and `lmrs surprisal`: tables, JSON under the library's names, and pictures."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import lmrs
from lmrs.cli import main
from lmrs.errors import InputError
from lmrs.eval import Outcome, plot, pseudo_loglikelihood, score_both_ways, surprisal
from lmrs.eval.outcome import perplexity
from lmrs.initialise import initialise
from lmrs.models import elmo
from lmrs.prompting import Task, Template, Verbalizer

PNG = b"\x89PNG"
TEXT = "the cat sat on the mat. hat"


@pytest.fixture(scope="module")
def bert(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bert") / "model"
    shutil.copytree(fixtures / "models/bert", directory)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "."]
    (directory / "vocab.txt").write_text("\n".join(words) + "\n")
    return directory


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == status, result.output
    return result


def loaded(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_pairs_in_two_files_and_a_picture(checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"sentence_good": f"the cat {w}", "sentence_bad": f"the mat {w}"} for w in ("sat", "on", "the", "cat")]
    files = [write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl.gz", rows[:3])]
    found = loaded("eval", "pairs", checkpoint, *files, "--plot", tmp_path / "pairs.png")
    assert list(found) == ["a.jsonl", "b.jsonl.gz", "all"]
    engine = lmrs.Engine(lmrs.load(checkpoint))
    right = []
    for row in rows:
        good, bad = engine.continuations([("", row["sentence_good"]), ("", row["sentence_bad"])])
        right.append(float(good.sum_logprob > bad.sum_logprob))
    assert found["a.jsonl"]["each"]["acc"] == right
    assert found["all"]["each"]["acc"] == right + right[:3]
    assert found["all"]["metrics"]["acc"]["value"] == pytest.approx(np.mean(right + right[:3]))
    assert (tmp_path / "pairs.png").read_bytes()[:4] == PNG
    shown = run("eval", "pairs", checkpoint, *files).stdout
    assert "b.jsonl.gz" in shown
    assert f"{np.mean(right):.4f}" in shown


def test_pairs_of_a_masked_model(bert: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"sentence_good": "the cats sat.", "sentence_bad": "cats the sat."}])
    found = loaded("eval", "pairs", bert, file)
    scores = pseudo_loglikelihood(
        lmrs.Engine(lmrs.load(bert)), ["the cats sat.", "cats the sat."], metric="within_word_l2r"
    )
    assert found["a.jsonl"]["each"]["acc"] == [float(scores[0].sum_logprob > scores[1].sum_logprob)]


def test_classes(checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"review": "the cat", "kind": "good"}, {"review": "mat mat", "kind": "bad"}]
    file = write(tmp_path / "reviews.jsonl", rows)
    said = ("--template", "{review} is", "--word", "good= the", "--word", "good= cat", "--word", "bad= mat")
    found = loaded("eval", "classes", checkpoint, file, *said, "--label", "kind")["reviews.jsonl"]
    task = Task(Template("{review} is"), Verbalizer({"good": [" the", " cat"], "bad": [" mat"]}))
    answers = task.answer(lmrs.Engine(lmrs.load(checkpoint)), rows)
    assert found["each"]["acc"] == [float(a.label == row["kind"]) for a, row in zip(answers, rows, strict=True)]
    nll = [-np.log(a.probabilities[row["kind"]]) for a, row in zip(answers, rows, strict=True)]
    np.testing.assert_allclose(found["each"]["nll"], nll, rtol=1e-9)
    for arguments, status, message in (
        ((*said, "--label", "class"), 1, "no field 'class'; it has review, kind"),
        ((*said, "--label", "review"), 1, "label 'the cat', expected one of good, bad"),
        (("--template", "{text}", *said[2:], "--label", "kind"), 1, ":1: the example has no text"),
        ((), 2, "Missing option '--template'"),
        (("--template", "{review}"), 2, "Missing option '--word'"),
        (("--template", "{review}", "--word", "good"), 2, "expected CLASS=TEXT"),
    ):
        assert message in " ".join(run("eval", "classes", checkpoint, file, *arguments, status=status).stderr.split())


def test_surprisal(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT + "\n")
    found = loaded("surprisal", checkpoint, tmp_path / "text", "--plot", tmp_path / "words.svg")
    expected = surprisal(lmrs.Engine(lmrs.load(checkpoint)), TEXT)
    assert [word["word"] for word in found["words"]] == TEXT.split()
    assert [word["surprisal"] for word in found["words"]] == [word.surprisal for word in expected]
    assert "<svg" in (tmp_path / "words.svg").read_text()
    assert f"{expected[0].surprisal:.3f}" in run("surprisal", checkpoint, tmp_path / "text").stdout
    refused = run("surprisal", checkpoint, tmp_path / "text", "--plot", tmp_path / "words.bmp", status=1)
    assert "a picture is .png, .svg or .pdf" in refused.stderr


def test_pll_of_a_masked_model(bert: Path, tmp_path: Path) -> None:
    texts = ["the cats sat.", "cat", "sat the"]
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n\n")
    found = loaded("pll", bert, tmp_path / "a.txt", "--metric", "original", "--plot", tmp_path / "a.png")
    scores = pseudo_loglikelihood(lmrs.Engine(lmrs.load(bert)), texts)
    assert [score["sum_logprob"] for score in found["scores"]] == [score.sum_logprob for score in scores]
    nll, tokens = (
        np.array(of) for of in zip(*((-s.sum_logprob, float(len(s.token_logprobs))) for s in scores), strict=True)
    )
    whole = found["perplexities"]["pseudo"]
    assert whole["value"] == pytest.approx(np.exp(nll.sum() / tokens.sum()))
    assert whole["error"] == perplexity(nll, tokens).error > 0
    assert (tmp_path / "a.png").read_bytes()[:4] == PNG
    assert "cats sat." in run("pll", bert, tmp_path / "a.txt").stdout


def test_pll_of_a_model_without_its_head_is_refused(minilm_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat\n")
    result = CliRunner().invoke(main, ["pll", str(minilm_dir), str(tmp_path / "a.txt")])
    assert result.exit_code == 1
    assert result.stderr == "Error: this bert has no masked-token head: its file holds none\n"


def test_pll_of_elmo(tmp_path: Path) -> None:
    words = ["<S>", "</S>", "<UNK>", "the", "cat", "sat"]
    config = elmo.Config(
        vocabulary=6, width=6, cells=9, layers=2, letter_width=4, filters=((1, 3), (2, 5)), highways=1, letters=12
    )
    lmrs.models.save(initialise(elmo.Model(config), seed=1), tmp_path / "model")
    (tmp_path / "model/vocab.txt").write_text("\n".join(words) + "\n")
    write(tmp_path / "a.jsonl", [{"line": "the cat sat"}, {"line": "a cat"}])
    found = loaded("pll", tmp_path / "model", tmp_path / "a.jsonl", "--column", "line")
    scores = score_both_ways(lmrs.load(tmp_path / "model"), [["the", "cat", "sat"], ["a", "cat"]])  # type: ignore[arg-type]
    forward, backward = (-sum(of) / 7 for of in zip(*((s.forward, s.backward) for s in scores), strict=True))
    for name, mean in (("forward", forward), ("backward", backward), ("both", (forward + backward) / 2)):
        assert found["perplexities"][name]["value"] == pytest.approx(np.exp(mean))
    assert [score["unknown"] for score in found["scores"]] == [0, 1]
    assert "log p backward" in run("pll", tmp_path / "model", tmp_path / "a.jsonl", "--column", "line").stdout


@pytest.mark.parametrize(
    ("command", "content", "message"),
    [
        ("pll {bert} {file}", "\n \n", "has no text to score"),
        ("pll {bert} {file}", "the " * 600, "expected at most the model's context"),
        ("pll {gpt2} {file}", "the", "a gpt2 predicts tokens in order"),
        ("pll {bert} missing.txt", "", "no such file"),
        ("surprisal {gpt2} {file}", "  ", "the words of a text"),
        ("surprisal {bert} {file}", "the", "reads texts whole"),
        ("eval pairs {gpt2} {file}", '{"sentence_good": 3}', ":1: sentence_good is 3, expected str"),
        ("eval cloze {gpt2} {file}", "\udcff", ":1: not UTF-8 at byte 0"),
        ("eval cloze {gpt2} missing.jsonl", "", "no such file"),
        ("ppl {gpt2} {file}", "ab\udcff", "not UTF-8 at byte 2"),
        ("ppl {gpt2} {file}", "", "is empty"),
        ("ppl {gpt2} {file} --protocol strided", "t", "a text of 1 tokens has none that protocol 'strided' scores"),
        ("corpus {gpt2} {file}", "the cat\n\udcff", ":2: not UTF-8 at byte 0 of the line"),
    ],
)
def test_bad_input_is_one_line(
    command: str, content: str, message: str, bert: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(content.encode(errors="surrogateescape"))
    names = {"bert": bert, "gpt2": checkpoint, "file": tmp_path / "a.txt"}
    stderr = run(*(part.format(**names) for part in command.split(" ")), status=1).stderr
    assert message in stderr
    assert len(stderr.splitlines()) == 1


def test_what_comes_from_standard_input(checkpoint: Path) -> None:
    scored = CliRunner().invoke(main, ["ppl", str(checkpoint), "-", "--json"], input=TEXT)
    assert json.loads(scored.stdout)["sum_logprob"] == lmrs.Engine(lmrs.load(checkpoint)).score(TEXT).sum_logprob
    refused = CliRunner().invoke(main, ["ppl", str(checkpoint), "-"], input=b"a\xff")
    assert refused.exit_code == 1
    assert "-: not UTF-8 at byte 1" in refused.stderr


def test_what_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for call in (lambda: plot.outcomes(tmp_path / "a.png", {}), lambda: plot.surprisals(tmp_path / "a.png", [])):
        with pytest.raises(InputError, match="there is no"):
            call()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'lmrs\[plot\]'"):
        plot.outcomes(tmp_path / "a.png", {"a": Outcome.of({"acc": [1.0]})})
