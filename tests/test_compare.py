"""Two models beside each other, against the definition in float64 from transformers' logits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

import lmrs
from lmrs.cli import main
from lmrs.errors import InputError
from lmrs.eval import compare
from lmrs.eval.plans import Logits

GPT2 = Path("models/gpt2")


@pytest.fixture(scope="module")
def sequences(fixtures: Path) -> list[list[int]]:
    random = np.random.default_rng(5)
    return [random.integers(0, lmrs.load(fixtures / GPT2).config.vocabulary, n).tolist() for n in (19, 1, 7)]


def test_logits_are_transformers(fixtures: Path, sequences: list[list[int]]) -> None:
    logits = Logits(lmrs.Engine(lmrs.load(fixtures / GPT2)))
    peer = transformers.GPT2LMHeadModel.from_pretrained(fixtures / GPT2).eval()
    with torch.no_grad():
        expected = np.concatenate([peer(torch.tensor([ids])).logits[0].numpy() for ids in sequences])
    select = [0, 3, 4, 18, 19, 26]
    blocks = list(logits.blocks(sequences, select=select, rows=4))
    assert [len(block) for block in blocks] == [4, 2]
    np.testing.assert_allclose(np.concatenate(blocks), expected[select], atol=2e-5)
    with pytest.raises(InputError, match="select reaches from 0 to 27, there are 27 rows"):
        list(logits.blocks(sequences, select=[0, 27], rows=4))


@pytest.fixture(scope="module")
def engines(smollm2_gguf: Path) -> tuple[lmrs.Engine, lmrs.Engine]:
    model = lmrs.load(smollm2_gguf)
    return lmrs.Engine(model, dtype="int8"), lmrs.Engine(model)


def test_comparison_is_its_definition(engines: tuple[lmrs.Engine, lmrs.Engine], fixtures: Path) -> None:
    """Blocks, batches and protocols beside one softmax in float64 over whole windows."""
    texts = [(fixtures / "texts/wikitext.txt").read_text()[start : start + 400] for start in (0, 700)]
    found = compare(*engines, texts, protocol="strided", window=40, stride=25)
    tables = []
    for text in texts:
        for window in engines[1].windows(text, protocol="strided", window=40, stride=25):
            rows = range(len(window.inputs) - len(window.targets), len(window.inputs))
            both = []
            for engine in engines:
                (logits,) = Logits(engine).blocks([window.inputs], select=list(rows), rows=len(rows))
                both.append(torch.log_softmax(torch.tensor(logits, dtype=torch.float64), 1).numpy())
            q, p = both
            at = np.arange(len(rows)), np.array(window.targets)
            columns = [(np.exp(p) * (p - q)).sum(1), p[at], q[at], p.argmax(1) == q.argmax(1)]
            tables.append(np.stack(columns, 1))
    kl, log_p, log_q, same = np.concatenate(tables).T
    assert found.tokens == len(kl)
    np.testing.assert_allclose(found.token_kl, kl, rtol=1e-4, atol=2e-7)
    np.testing.assert_allclose(found.token_logprobs, log_q, atol=2e-6)
    np.testing.assert_allclose(found.reference_logprobs, log_p, atol=2e-6)
    assert found.kl == pytest.approx(kl.mean(), rel=1e-5)
    assert found.kl_median == pytest.approx(np.median(kl), rel=1e-4)
    assert found.kl_percentiles["99"] == pytest.approx(np.percentile(kl, 99), rel=1e-4)
    assert found.same_top == same.mean()
    assert found.perplexity_ratio == pytest.approx(np.exp((log_p - log_q).mean()), rel=1e-6)
    assert found.delta_p_rms == pytest.approx(np.sqrt(((np.exp(log_q) - np.exp(log_p)) ** 2).mean()), rel=1e-5)
    assert 0.002 < found.kl < 0.2
    score = engines[0].score(texts[0], protocol="strided", window=40, stride=25)
    np.testing.assert_allclose(found.token_logprobs[: score.tokens], score.token_logprobs, atol=2e-6)


def test_a_model_is_not_far_from_itself(engines: tuple[lmrs.Engine, lmrs.Engine]) -> None:
    found = compare(engines[1], engines[1], "The sun rises in the east and sets in the west.")
    assert (found.kl_max, found.same_top, found.perplexity_ratio) == (0.0, 1.0, 1.0)


def test_vocabularies_that_differ_are_refused(engines: tuple[lmrs.Engine, lmrs.Engine], fixtures: Path) -> None:
    other = lmrs.Engine(lmrs.load(fixtures / GPT2))
    with pytest.raises(InputError, match="the model has 49152 tokens, the reference"):
        compare(engines[0], other, "a text")
    with pytest.raises(InputError, match="there is no text to score"):
        compare(*engines, [])


def test_ppl_against(smollm2_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Some text to read, and some more of it.")
    arguments = ["ppl", str(smollm2_gguf), str(tmp_path / "text"), "--dtype", "bf16", "--against", str(smollm2_gguf)]
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert found["tokens"] == len(found["token_kl"])
    assert 0 < found["kl"] < 0.01
    shown = CliRunner().invoke(main, arguments, catch_exceptions=False).stdout
    assert "KL divergence" in shown
    refused = CliRunner().invoke(main, [*arguments, "--rank"])
    assert refused.exit_code == 2
