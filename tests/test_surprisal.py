"""Word surprisal by its definition, from transformers' logits."""

from typing import Any

import pytest
import torch
import transformers

import lmrs
from lmrs.errors import InputError
from lmrs.eval import surprisal
from lmrs.initialise import initialise
from lmrs.models import gpt2

TEXT = "the cat sat 猫犬. mat\nhat the"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[lmrs.Engine, Any]:
    directory = tmp_path_factory.mktemp("gpt2") / "model"
    fields = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    model = initialise(gpt2.Model(gpt2.Config.from_dict(fields)), seed=1)
    table = model.named_parameters()["embed.weight"]
    table.data = lmrs.backend.native.array(table.data.numpy() * 40).tensor
    lmrs.models.save(model, directory)
    lmrs.Tokenizer.train(["the cat sat on the mat"] * 3, vocab_size=300).save(directory)
    return lmrs.Engine(lmrs.load(directory)), transformers.GPT2LMHeadModel.from_pretrained(directory).eval()


def test_surprisal_is_its_definition(both: tuple[lmrs.Engine, Any]) -> None:
    engine, peer = both
    tokenizer = engine.tokenizer
    ids = tokenizer.encode(TEXT).ids
    with torch.no_grad():
        logprobs = torch.log_softmax(peer(torch.tensor([[tokenizer.bos_id, *ids]])).logits[0].double(), 1)
    space = [n for t, n in tokenizer if n == tokenizer.eos_id or tokenizer.decode([n])[:1].isspace()]
    begins = torch.logsumexp(logprobs[:, space], 1)
    # Where each token begins in the bytes of the text; a token that is no text is one byte here.
    places = [0]
    for token in ids:
        decoded = tokenizer.decode([token])
        places.append(places[-1] + (1 if "\ufffd" in decoded else len(decoded.encode())))
    assert places[-1] == len(TEXT.encode())
    found = surprisal(engine, TEXT)
    assert [word.word for word in found] == ["the", "cat", "sat", "猫", "犬", ".", "mat", "hat", "the"]
    for word in found:
        start, stop = (len(TEXT[:n].encode()) for n in (word.start, word.stop))
        inside = [i for i in range(len(ids)) if places[i] < stop and places[i + 1] > start]
        first, last = inside[0], inside[-1] + 1
        plain = -sum(float(logprobs[i, ids[i]]) for i in range(first, last))
        assert word.tokens == last - first
        assert word.uncorrected == pytest.approx(plain, abs=1e-4)
        spaced_before = word.start > 0 and ids[first] in space
        spaced_after = word.stop == len(TEXT) or TEXT[word.stop].isspace()
        corrected = plain + spaced_before * float(begins[first]) - spaced_after * float(begins[last])
        assert word.surprisal == pytest.approx(corrected, abs=1e-4)
    assert any(abs(word.surprisal - word.uncorrected) > 0.01 for word in found)


def test_words_that_are_given(both: tuple[lmrs.Engine, Any]) -> None:
    given = surprisal(both[0], TEXT, words=[(0, 7), (8, 11)])
    assert [word.word for word in given] == ["the cat", "sat"]
    one_by_one = surprisal(both[0], TEXT)
    # Words that follow each other are as surprising together as one after the other.
    assert given[0].surprisal == pytest.approx(one_by_one[0].surprisal + one_by_one[1].surprisal)


def test_what_has_no_surprisal(both: tuple[lmrs.Engine, Any]) -> None:
    for text, words in (("  ", None), ("a b", [(2, 3), (0, 1)]), ("a", [(0, 2)])):
        with pytest.raises(InputError, match="expected spans in order"):
            surprisal(both[0], text, words=words)
    with pytest.raises(InputError, match="tokens, expected at most 63"):
        surprisal(both[0], "the cat " * 99)
