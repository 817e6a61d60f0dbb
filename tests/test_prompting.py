"""Prompting: templates, verbalizers, demonstrations and calibration, by their definitions and on real models."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import lmrs
from lmrs import train
from lmrs.errors import InputError
from lmrs.initialise import initialise
from lmrs.models import gpt2
from lmrs.prompting import Learned, Task, Template, Verbalizer, learned

GPT2 = Path(__file__).parent / "fixtures/models/gpt2"
FEELING = Task(Template("Review: {text}\nIt was"), Verbalizer({"good": [" great", " fun"], "bad": [" awful"]}))
SHOTS = [({"text": "I loved it."}, "good"), ({"text": "A waste of time."}, "bad")]


def biased(pairs: Sequence[tuple[str, str]]) -> list[Any]:
    """Stands for an engine: prefers " great" whatever it reads, and " awful" a little more after "boring"."""
    table = {" great": 0.6, " fun": 0.2, " awful": 0.1}
    return [
        SimpleNamespace(sum_logprob=np.log(table[word] * (2.0 if word == " awful" and "boring" in prompt else 1.0)))
        for prompt, word in pairs
    ]


def test_templates() -> None:
    assert Template("{a} and {{b}} {c}").fill({"a": 1, "c": "{a}"}) == "1 and {b} {a}"
    assert Template("{a}{b}{a}").fields == ["a", "b", "a"]
    with pytest.raises(InputError, match="has no b"):
        Template("{a}{b}").fill({"a": 1})
    cloze = Template("{a} is {mask}.")
    assert (cloze.fields, cloze.fill({"a": 1})) == (["a"], "1 is {mask}.")
    with pytest.raises(InputError, match="which says where the answer goes"):
        cloze.fill({"a": "{mask}"})
    for text in ("{a", "a}", "{}", "{a b}", "{mask} {mask}"):
        with pytest.raises(InputError, match="template"):
            Template(text)


def test_verbalizers() -> None:
    found = FEELING.verbalizer.probabilities(np.log([[0.6, 0.2, 0.1]]))
    np.testing.assert_allclose(found, [[0.4 / 0.5, 0.1 / 0.5]])
    for words, names in (
        ({"a": ["x"]}, "1 classes"),
        ({"a": ["x"], "b": []}, "'b' has no"),
        ({"a": ["x"], "b": ["x"]}, "share"),
    ):
        with pytest.raises(InputError, match=names):
            Verbalizer(words)


def test_demonstrations() -> None:
    assert FEELING.prompt({"text": "Fine."}, SHOTS) == (
        "Review: I loved it.\nIt was great\n\nReview: A waste of time.\nIt was awful\n\nReview: Fine.\nIt was"
    )
    with pytest.raises(InputError, match="a demonstration is 'meh'"):
        FEELING.prompt({"text": "x"}, [({"text": "y"}, "meh")])


def test_calibration_takes_the_prior_out() -> None:
    engine: Any = SimpleNamespace(continuations=biased, model=lmrs.models.load(GPT2))
    examples = [{"text": "boring"}, {"text": "so"}]
    plain, even = (FEELING.answer(engine, examples, calibrated=calibrated) for calibrated in (False, True))
    assert [answer.label for answer in plain] == ["good", "good"]
    assert even[0].label == "bad"
    # What says nothing has no class: a text like those is even.
    assert even[1].probabilities == pytest.approx({"good": 0.5, "bad": 0.5})


def test_a_real_model_by_the_definition(smollm2_gguf: Path) -> None:
    """Probabilities, with demonstrations and calibrated, from what the model says of each token."""
    engine = lmrs.Engine(lmrs.load(smollm2_gguf))

    def peer(prompt: str) -> list[float]:
        found = []
        for word in (" great", " fun", " awful"):
            before, after = engine.tokenizer.encode(prompt).ids, engine.tokenizer.encode(prompt + word).ids
            found.append(engine.following(after)[len(before) - 1 :, 0].sum(dtype=np.float64))
        great, fun, awful = np.exp(found)
        return [(great + fun) / 2 / ((great + fun) / 2 + awful), awful / ((great + fun) / 2 + awful)]

    example = {"text": "Terrible acting, I walked out."}
    nothing = np.mean([peer(FEELING.prompt({"text": word}, SHOTS)) for word in ("N/A", "[MASK]", "")], 0)
    expected = np.array(peer(FEELING.prompt(example, SHOTS))) / nothing
    (answer,) = FEELING.answer(engine, [example], shots=SHOTS, calibrated=True)
    assert list(answer.probabilities.values()) == pytest.approx((expected / expected.sum()).tolist(), rel=1e-5)
    examples = [{"text": "I loved every minute of it."}, example]
    good, bad = FEELING.answer(engine, examples, shots=SHOTS, calibrated=True)
    # Its labels lean to the last demonstration, as Zhao et al. found; the order of the two reviews does not.
    assert good.probabilities["good"] > bad.probabilities["good"] + 0.05


def test_choices_and_texts_through_the_same_call(smollm2_gguf: Path) -> None:
    engine = lmrs.Engine(lmrs.load(smollm2_gguf))
    question = Template("{question}")
    asked = {"question": "The capital of France is", "options": ["Paris", "Rome", "a small fish"]}
    (chosen,) = Task(question, choices=lambda example: example["options"]).answer(engine, [asked])
    scores = [one.sum_logprob for one in engine.continuations([(asked["question"], f" {o}") for o in asked["options"]])]
    assert chosen.label == "Paris"
    np.testing.assert_allclose(list(chosen.probabilities.values()), np.exp(scores) / np.exp(scores).sum(), rtol=1e-6)
    (written,) = Task(question).answer(engine, [asked], max_tokens=3)
    assert written.label == engine.generate(asked["question"], max_tokens=3).text.strip()
    assert not written.probabilities
    for task, options, names in (
        (Task(question), {"calibrated": True}, "has none"),
        (FEELING, {"max_tokens": 3}, "max_tokens: this task writes nothing"),
        (Task(question, choices=lambda _: ["a"]), {}, "example 0 has the choices"),
    ):
        with pytest.raises(InputError, match=names):
            task.answer(engine, [asked | {"text": ""}], **options)
    with pytest.raises(InputError, match="not both"):
        Task(question, FEELING.verbalizer, choices=lambda _: ["a", "b"])


# --- masked models and encoder-decoders ---

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", ".", "was", "good", "bad", "##ly"]
WAS = Task(Template("{text} was {mask}."), Verbalizer({"up": [" good", " cats"], "down": [" bad", " badly"]}))


@pytest.fixture(scope="module")
def bert(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> lmrs.Engine:
    beside = tmp_path_factory.mktemp("wordpiece")
    (beside / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return lmrs.Engine(lmrs.load(fixtures / "models/bert"), tokenizer=lmrs.Tokenizer.load(beside))


def test_a_masked_model_fills_the_mask(bert: lmrs.Engine, fixtures: Path) -> None:
    model = transformers.BertForMaskedLM.from_pretrained(fixtures / "models/bert").eval()

    def peer(before: list[str], word: list[str]) -> float:
        tokens = ["[CLS]", *before, "was", *["[MASK]"] * len(word), ".", "[SEP]"]
        with torch.no_grad():
            logits = model(torch.tensor([[WORDS.index(token) for token in tokens]])).logits[0].double()
        table, first = torch.log_softmax(logits, -1), tokens.index("[MASK]")
        return sum(table[first + at, WORDS.index(piece)].item() for at, piece in enumerate(word))

    texts = [["the", "cat"], ["cat", "##s", "sat"]]
    every = [["good"], ["cat", "##s"], ["bad"], ["bad", "##ly"]]
    expected = np.exp([[peer(text, word) for word in every] for text in texts]).reshape(2, 2, 2).mean(2)
    found = WAS.answer(bert, [{"text": "the cat"}, {"text": "cats sat"}])
    for answer, p in zip(found, expected / expected.sum(1, keepdims=True), strict=True):
        assert list(answer.probabilities.values()) == pytest.approx(p.tolist(), rel=1e-4)
    shown = WAS.prompt({"text": "the cat"}, [({"text": "cats"}, "down")])
    assert shown == "cats was bad.\n\nthe cat was {mask}."
    with pytest.raises(InputError, match="0 masks, expected one"):
        FEELING.answer(bert, [{"text": "the"}])
    with pytest.raises(InputError, match="holds the mask token"):
        WAS.answer(bert, [{"text": "the [MASK]"}])


def test_an_encoder_decoder_answers(fixtures: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "<extra_id_0>"]) + "\n")
    tokenizer = lmrs.Tokenizer.load(tmp_path)
    if tokenizer.token_to_id("<extra_id_0>") is None:
        pytest.fail("the sentinel is not in the vocabulary")
    engine = lmrs.Engine(lmrs.load(fixtures / "models/t5"), tokenizer=tokenizer)
    model = transformers.T5ForConditionalGeneration.from_pretrained(fixtures / "models/t5").eval()

    def peer(question: list[str], answer: list[str]) -> float:
        ids, labels = (torch.tensor([[tokenizer.token_to_id(w) for w in words]]) for words in (question, answer))
        with torch.no_grad():
            table = torch.log_softmax(model(input_ids=ids, labels=labels).logits[0].double(), -1)
        return sum(table[at, label].item() for at, label in enumerate(labels[0].tolist()))

    (answer,) = Task(Template("the {text}"), WAS.verbalizer).answer(engine, [{"text": "cat"}])
    words = [["good"], ["cat", "##s"], ["bad"], ["bad", "##ly"]]
    asked = ["[CLS]", "the", "cat", "[SEP]"]
    expected = np.exp([peer(asked, ["[CLS]", *word, "[SEP]"]) for word in words]).reshape(2, 2).mean(1)
    assert list(answer.probabilities.values()) == pytest.approx((expected / expected.sum()).tolist(), rel=1e-3)


# --- verbalizers that learn ---


@given(st.integers(0, 2**32), st.integers(2, 3), st.floats(0.1, 10))
@settings(max_examples=25)
def test_a_learned_verbalizer_is_at_its_minimum(seed: int, classes: int, decay: float) -> None:
    random = np.random.default_rng(seed)
    words = {f"c{c}": [f"w{c}{w}" for w in range(1 + (c + seed) % 3)] for c in range(classes)}
    verbalizer = Verbalizer(words)
    x = -random.gamma(2.0, 2.0, (12, len(verbalizer.every)))
    labels = [f"c{c}" for c in random.integers(0, classes, 12)]
    found = learned(verbalizer, x, labels, decay=decay)
    hand = np.zeros_like(found.weights)
    at = 0
    for c, of in enumerate(words.values()):
        hand[c, at : (at := at + len(of))] = 1 / len(of)

    def cost(weights: Any, bias: Any) -> float:
        p = Learned(words, weights, bias).probabilities(x)
        chosen = [p[n, verbalizer.classes.index(label)] for n, label in enumerate(labels)]
        return float(-np.log(chosen).sum() + decay / 2 * ((weights - hand) ** 2).sum() + decay / 2e3 * (bias**2).sum())

    best = cost(found.weights, found.bias)
    assert best <= cost(hand, np.zeros(classes)) + 1e-9
    for _ in range(5):
        a, b = random.normal(0, 1e-3, found.weights.shape), random.normal(0, 1e-3, classes)
        assert cost(found.weights + a, found.bias + b) >= best - 1e-9


def test_a_task_learns_its_verbalizer(bert: lmrs.Engine) -> None:
    examples = [{"text": text} for text in ("the cat", "cats", "the cats sat", "sat", "cat sat", "the")]
    labels = ["up", "down", "up", "down", "down", "up"]
    before = WAS.judge(bert, examples, labels).metrics["nll"].value
    after = WAS.learned(bert, examples, labels, decay=1e-3).judge(bert, examples, labels).metrics["nll"].value
    assert after < before - 0.1
    with pytest.raises(InputError, match="a label is 'sideways'"):
        WAS.learned(bert, examples[:1], ["sideways"])
    with pytest.raises(InputError, match="no verbalizer"):
        Task(Template("{text}")).learned(bert, examples, labels)


def test_soft_tokens() -> None:
    template = Template("{soft*3} {soft:It was}{soft}\n{text} Was it?")
    assert (template.soft, template.fields) == ([3, "It was", 1], ["text"])
    assert template.fill({"text": "Fine."}) == "Fine. Was it?"
    model = lmrs.load(GPT2)
    tokenizer = SimpleNamespace(encode=lambda text, **_: SimpleNamespace(ids=[ord(c) % 50 for c in text]))
    prompt = template.prompt(model, tokenizer=tokenizer, seed=4)  # type: ignore[arg-type]
    assert prompt.length == len(prompt.ids) == 3 + 6 + 1
    assert list(prompt.ids[3:9]) == [ord(c) % 50 for c in "It was"]
    assert prompt == template.prompt(model, tokenizer=tokenizer, seed=4)  # type: ignore[arg-type]
    assert prompt != template.prompt(model, tokenizer=tokenizer, seed=5)  # type: ignore[arg-type]
    for text in ("{text} {soft}", "{soft*0}", "{soft: }", "{soft*x}", "{mask}{soft*2}"):
        with pytest.raises(InputError, match="soft tokens are"):
            Template(text)
    with pytest.raises(InputError, match="has no soft token"):
        Template("{text}").prompt(model)


def test_soft_tokens_are_trained_alone() -> None:
    tokenizer = lmrs.Tokenizer.train(["bytes alone"], vocab_size=257)
    config = gpt2.Config(vocabulary=len(tokenizer), width=32, layers=2, heads=2, context=64, inner=64)
    base = initialise(gpt2.Model(config), seed=0)
    template = Template("{soft*4} the {what} was")
    task = Task(template, Verbalizer({"up": [" good"], "down": [" bad"]}))
    examples, labels = [{"what": "cat"}, {"what": "cat cat"}, {"what": "the"}], ["up"] * 3
    with pytest.raises(InputError, match="the model has none"):
        task.judge(lmrs.Engine(base, tokenizer=tokenizer), examples, labels)
    tuned = template.prompt(base)(base)
    before = {path: p.data.numpy() for path, p in tuned.named_parameters().items()}
    start = task.judge(lmrs.Engine(tuned, tokenizer=tokenizer), examples, labels).metrics["nll"].value
    lessons = train.sft(tuned, [(template.fill(example), " good") for example in examples], tokenizer=tokenizer)
    train.fit(lessons, steps=20, optimiser=train.AdamW(learning_rate=0.1), schedule=train.Constant())
    end = task.judge(lmrs.Engine(tuned, tokenizer=tokenizer), examples, labels).metrics["nll"].value
    assert end < start - 0.02
    after = tuned.named_parameters()
    changed = [path for path, values in before.items() if not np.array_equal(values, after[path].data.numpy())]
    assert [after[path].shape for path in changed] == [(4, base.config.width)]


def test_soft_tokens_before_a_mask(bert: lmrs.Engine) -> None:
    template = Template("{soft*2} {text} was {mask}.")
    task = Task(template, WAS.verbalizer)
    engine = lmrs.Engine(template.prompt(bert.model)(bert.model), tokenizer=bert.tokenizer)
    (found,) = task.answer(engine, [{"text": "the cat"}])
    plain = Task(Template("{text} was {mask}."), task.verbalizer)
    (other,) = plain.answer(bert, [{"text": "the cat"}])
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.probabilities != other.probabilities
    # Read by itself or beside a longer text, the answer is the same.
    assert task.answer(engine, [{"text": "cats sat cats"}, {"text": "the cat"}])[1].probabilities == found.probabilities
