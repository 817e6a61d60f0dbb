"""Scores of models that do not write from left to right: masked ones and encoder-decoders, against transformers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import lmrs
from lmrs.errors import ConfigError, InputError
from lmrs.eval import answers, pseudo_loglikelihood
from lmrs.eval.masked import Metric, pseudo_scores

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "un", "##believ", "##able", "cat", "##s", "sat", ".", ","]
TEXTS = ["the cats sat.", "unbelievable cats, unbelievable!", "cat"]


@pytest.fixture(scope="module")
def bert(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[lmrs.Engine, Any, Any]:
    """The tiny BERT under a WordPiece vocabulary, here and in transformers."""
    beside = tmp_path_factory.mktemp("wordpiece")
    (beside / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    engine = lmrs.Engine(lmrs.load(fixtures / "models/bert"), tokenizer=lmrs.Tokenizer.load(beside))
    model = transformers.BertForMaskedLM.from_pretrained(fixtures / "models/bert").eval()
    return engine, model, transformers.BertTokenizerFast(vocab=str(beside / "vocab.txt"))


def masked_one_by_one(model: Any, ids: list[int], words: list[int | None], mask: int, metric: Metric) -> list[float]:
    """The definition: a run for each token whose word is not None."""
    found = []
    for at, word in enumerate(words):
        if word is None:
            continue
        read = list(ids)
        for later in range(at, len(ids)):
            if later == at or (metric == "within_word_l2r" and words[later] == word):
                read[later] = mask
        with torch.no_grad():
            logits = model(torch.tensor([read])).logits[0, at].double()
        found.append(float(torch.log_softmax(logits, 0)[ids[at]]))
    return found


@pytest.mark.parametrize("metric", ["original", "within_word_l2r"])
def test_pseudo_loglikelihood_is_its_definition(bert: tuple[lmrs.Engine, Any, Any], metric: Metric) -> None:
    engine, model, tokenizer = bert
    for text, score in zip(TEXTS, pseudo_loglikelihood(engine, TEXTS, metric=metric), strict=True):
        encoded = tokenizer(text)
        expected = masked_one_by_one(model, encoded["input_ids"], encoded.word_ids(), 4, metric)
        np.testing.assert_allclose(score.token_logprobs, expected, atol=1e-5)
        assert score.metric == metric
        assert score.sum_logprob == pytest.approx(sum(expected), abs=1e-4)
        assert score.pseudo_perplexity == pytest.approx(math.exp(-sum(expected) / len(expected)), rel=1e-4)
    with_words = pseudo_loglikelihood(engine, TEXTS, metric="within_word_l2r")[1].token_logprobs
    assert not np.allclose(with_words, pseudo_loglikelihood(engine, TEXTS)[1].token_logprobs)


def test_what_a_masked_model_cannot_score(bert: tuple[lmrs.Engine, Any, Any], fixtures: Path) -> None:
    engine = bert[0]
    with pytest.raises(InputError, match="has no token to score"):
        pseudo_loglikelihood(engine, [""])
    with pytest.raises(InputError, match="metric is 'own', expected one of original, within_word_l2r"):
        pseudo_loglikelihood(engine, ["cat"], metric="own")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected at most the model's context"):
        pseudo_loglikelihood(engine, ["cat " * 2000])
    causal = lmrs.Engine(lmrs.load(fixtures / "models/gpt2"))
    with pytest.raises(ConfigError, match="a gpt2 predicts tokens in order"):
        pseudo_scores(causal, [([1], [0], [0])], mask=2)


REAL = Path(__file__).parent.parent / "../shared/data/models/rxnfp-bert-mlm-fp16"


@pytest.mark.skipif(not REAL.is_dir(), reason="an addition where the shared references are; the fixtures are live")
def test_a_real_masked_model() -> None:
    """The BERT of chemical reactions, of whose texts transformers' numbers were noted."""
    engine = lmrs.Engine(lmrs.load(REAL))
    for example in json.loads((REAL / "reference.json").read_text())["examples"]:
        ids = example["ids"]
        places = list(range(1, len(ids) - 1))
        (score,) = pseudo_scores(engine, [(ids, places, places)], mask=14)
        assert score.sum_logprob == pytest.approx(example["pll_sum"], abs=1e-4)


@pytest.mark.parametrize("family", ["t5", "flan-t5"])
def test_answers_are_transformers(fixtures: Path, family: str) -> None:
    engine = lmrs.Engine(lmrs.load(fixtures / "models" / family))
    peer = transformers.T5ForConditionalGeneration.from_pretrained(fixtures / "models" / family).eval()
    random = np.random.default_rng(3)
    pairs = [
        (random.integers(1, 99, n).tolist(), random.integers(1, 99, m).tolist()) for n, m in ((5, 3), (17, 1), (2, 9))
    ]
    for (question, answer), score in zip(pairs, answers(engine, pairs), strict=True):
        with torch.no_grad():
            logits = peer(torch.tensor([question]), labels=torch.tensor([answer])).logits[0].double()
        expected = torch.log_softmax(logits, 1)[range(len(answer)), answer].numpy()
        np.testing.assert_allclose(score.token_logprobs, expected, atol=2e-5)
        assert score.tokens == len(answer)
        assert score.greedy == (logits.argmax(1).tolist() == answer)
    alone = [answers(engine, [pair])[0].token_logprobs.tobytes() for pair in pairs]
    assert alone == [score.token_logprobs.tobytes() for score in answers(engine, pairs)]
    best = engine.generate(pairs[0][0], max_tokens=4).tokens
    assert answers(engine, [(pairs[0][0], best)])[0].greedy


def test_what_is_no_answer(fixtures: Path) -> None:
    engine = lmrs.Engine(lmrs.load(fixtures / "models/t5"))
    with pytest.raises(InputError, match=r"\[\] has no token"):
        answers(engine, [([1], [])])
    with pytest.raises(ConfigError, match="a gpt2 is no encoder-decoder"):
        answers(lmrs.Engine(lmrs.load(fixtures / "models/gpt2")), [([1], [2])])
