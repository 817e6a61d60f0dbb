"""Objectives of alignment: the same on both backends and with every delta, resumed to the bit, and bad input named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmrs import align, delta, models, train
from lmrs.align.logprobs import measured, through, token_logprobs
from lmrs.align.pairwise import Pairwise
from lmrs.align.preferences import Pair, example
from lmrs.backend import native
from lmrs.backend import torch as torch_backend
from lmrs.batch import Batch
from lmrs.errors import Error, FormatError, InputError
from lmrs.train.objective import Example

FIXTURES = Path(__file__).parent / "fixtures" / "models"
RANDOM = np.random.default_rng(0)
PREFERENCES = [
    align.Preference(
        prompt=RANDOM.integers(3, 99, 3 + i).tolist(),
        chosen=RANDOM.integers(3, 99, 4 + i % 3).tolist(),
        rejected=RANDOM.integers(3, 99, 3 + i % 4).tolist(),
    )
    for i in range(8)
]
DELTAS = [
    delta.LoRA(rank=4),
    delta.Adapter(width=4),
    delta.Prefix(length=3),
    delta.Prompt(length=3),
    delta.IA3(),
    delta.BitFit(),
    delta.Ladder(reduction=2),
    delta.DoRA(rank=2),
]


def base(family: str = "llama") -> Any:
    return models.load(FIXTURES / family)


def moved(model: Any) -> Any:
    """The model with what is trained away from where it starts."""
    for path, parameter in sorted(model.named_parameters().items()):
        if parameter.trainable:
            noise = np.random.default_rng(len(path)).normal(0, 0.05, parameter.shape).astype(np.float32)
            parameter.data = native.array(parameter.data.numpy() + noise).tensor
    return model


def pairs(model: Any) -> list[Pair]:
    return align.encoded(model, PREFERENCES).pairs


OBJECTIVES = {
    "dpo": lambda model: align.dpo(model, pairs(model)),
    "dpo aot": lambda model: align.dpo(model, pairs(model), setting=align.DPO(losses="aot_unpaired")),
    "dpo bco": lambda model: align.dpo(model, pairs(model), setting=align.DPO(losses="bco_pair")),
    "dpo weighted": lambda model: align.dpo(model, pairs(model), setting=align.DPO(weighted=True)),
    "orpo": lambda model: align.orpo(model, pairs(model)),
    "cpo": lambda model: align.cpo(model, pairs(model)),
    "simpo": lambda model: align.simpo(model, pairs(model)),
    "kto": lambda model: align.kto(model, align.unpaired(pairs(model))),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_native_is_torch(name: str) -> None:
    model = moved(delta.LoRA(rank=4)(base()))
    ours, theirs = OBJECTIVES[name](model), OBJECTIVES[name](torch_backend.place(model))
    chosen = [5, 0, 3]
    value, gradients = native.value_and_grad(lambda: ours.loss(chosen, backend="native")[0], model)
    other, expected = torch_backend.value_and_grad(lambda: theirs.loss(chosen, backend="torch")[0], theirs.model)
    assert value == pytest.approx(other, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for path, gradient in gradients.items():
        np.testing.assert_allclose(gradient.numpy(), expected[path].numpy(), rtol=1e-3, atol=2e-5)
    assert ours.told.drain() == pytest.approx(theirs.told.drain(), rel=1e-4, abs=1e-5)


def test_the_certainty_of_replies_by_its_definition() -> None:
    """``log p - log Σ p²`` of each token, its mean over a reply, both replies together: WPO's sampled alignment."""
    model = moved(delta.LoRA(rank=4)(base()))
    seen: list[Any] = []

    def judge(replies: Any) -> Any:
        seen.append(replies.certainty)
        return align.DPO()(replies)

    objective = Pairwise(model, pairs(model), judge, certain=True)
    objective.loss([0, 3], backend="native")
    for place, index in enumerate([0, 3]):
        expected = 0.0
        for reply in (objective.pairs[index].chosen, objective.pairs[index].rejected):
            batch = Batch.of([reply.ids])
            logits = model.head(model.hidden(batch)).numpy().astype(np.float64)
            p = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
            at = [row for row, label in enumerate(reply.labels) if label >= 0]
            drawn = p[at, [reply.labels[row] for row in at]]
            expected += float((np.log(drawn) - np.log((p[at] ** 2).sum(1))).mean())
        assert seen[0][place] == pytest.approx(expected, abs=1e-5)
    objective.judged()
    assert [float(part[0]) for part in seen[1:]][0:4:3] == pytest.approx(seen[0], abs=1e-5)


def test_what_a_loss_remembers_is_not_changed_by_looking() -> None:
    objective = OBJECTIVES["dpo bco"](delta.LoRA(rank=4)(base()))
    objective.judged()
    assert objective.memory == {}
    objective.loss([0, 3], backend="native")
    assert objective.memory["rewards"] == 4


def test_the_gradient_is_that_of_the_loss_written_in_torch() -> None:
    policy = torch_backend.place(moved(delta.LoRA(rank=4)(base())))
    objective = align.dpo(policy, pairs(policy))
    chosen = [1, 2, 6]

    def written() -> Any:
        total = torch.zeros(1, 1)
        for index in chosen:
            pair, reference = objective.pairs[index], objective._reference[:, index]
            logps = [token_logprobs(policy, [e], backend="torch")[0].sum() for e in (pair.chosen, pair.rejected)]
            logits = logps[0] - logps[1] - float(reference[0] - reference[1])
            total = total - torch.nn.functional.logsigmoid(0.1 * logits)
        return total

    value, gradients = torch_backend.value_and_grad(lambda: objective.loss(chosen, backend="torch")[0], policy)
    expected, theirs = torch_backend.value_and_grad(written, policy)
    assert value == pytest.approx(expected, rel=1e-6)
    for path, gradient in gradients.items():
        np.testing.assert_allclose(gradient.numpy(), theirs[path].numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", DELTAS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dpo_with_every_delta(method: Any, family: str) -> None:
    if isinstance(method, delta.BitFit) and family == "llama":
        method = delta.NormTuning()
    policy = method(base(family))
    objective = align.dpo(policy, pairs(policy))
    history = train.fit(
        objective,
        steps=12,
        batch_tokens=10**6,
        optimiser=train.AdamW(learning_rate=2e-2),
        schedule=train.Constant(),
    )
    if not isinstance(method, delta.Prefix | delta.Prompt):
        # These two change the model from the start; the others start as the reference does.
        assert history.losses[0] == pytest.approx(np.log(2), abs=1e-4)
    assert history.losses[-1] < history.losses[0]
    told = objective.judged()
    assert told["rewards/margins"] > 0
    assert told["rewards/chosen"] - told["rewards/rejected"] == pytest.approx(told["rewards/margins"])


def test_the_reference_is_the_policy_with_its_deltas_off() -> None:
    model, policy = base(), moved(delta.LoRA(rank=4)(base()))
    ours = align.dpo(policy, pairs(policy))
    np.testing.assert_array_equal(ours._reference, align.dpo(policy, pairs(policy), reference=model)._reference)
    # All of the model is trained: what it was held to is what it was when the objective was made.
    whole = align.dpo(model, pairs(model))
    train.fit(whole, steps=2, batch_tokens=100)
    np.testing.assert_array_equal(whole._reference, ours._reference)


def test_log_probabilities_do_not_depend_on_their_company() -> None:
    model = base()
    examples = [e for pair in pairs(model) for e in (pair.chosen, pair.rejected)]
    together = measured(model, examples, backend="native")
    for part, one in zip(together, examples, strict=True):
        np.testing.assert_array_equal(part, measured(model, [one], backend="native")[0])


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    def run(on_step: Any = None, **options: Any) -> Any:
        model = delta.LoRA(rank=4, dropout=0.1)(base())
        settings: Any = {"steps": 6, "batch_tokens": 60, "save_every": 2, **options}
        train.fit(OBJECTIVES[name](model), on_step=on_step, **settings)
        return {path: p.data.numpy() for path, p in model.named_parameters().items() if p.trainable}

    def killed(step: train.Step) -> None:
        if step.step == 5:
            raise Killed

    whole = run()
    with pytest.raises(Killed):
        run(killed, checkpoints=tmp_path)
    again = run(checkpoints=tmp_path, resume=True)
    assert all(np.array_equal(values, whole[path]) for path, values in again.items())


def test_a_loss_that_is_not_finite_is_refused_and_changes_nothing() -> None:
    model = delta.LoRA(rank=4)(base())
    path = "blocks.1.attn.q.b"
    values = model.named_parameters()[path].data.numpy()
    model.named_parameters()[path].data = native.array(np.full_like(values, np.nan)).tensor
    before = {p: w.data.numpy() for p, w in model.named_parameters().items() if w.trainable}
    with pytest.raises(InputError, match="the loss is nan"):
        train.fit(align.dpo(model, pairs(model)), steps=1)
    assert all(np.array_equal(model.named_parameters()[p].data.numpy(), w, equal_nan=True) for p, w in before.items())


def test_an_overflow_is_named() -> None:
    from lmrs.align import vector

    values = native.array(np.array([[800.0]], np.float32))
    with pytest.raises(InputError, match="the loss is inf"):
        through(values, lambda x: vector.total(vector.exp(x)), backend="native")


def test_readers(tmp_path: Path) -> None:
    turns = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: more\n\nAssistant:"
    items = [
        {"chosen": turns + " yes", "rejected": turns + " no"},
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2},
        {
            "prompt": [{"role": "user", "content": "q"}],
            "chosen": [{"role": "assistant", "content": "x"}],
            "rejected": [{"role": "assistant", "content": "y"}],
        },
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, items)) + "\n\n")
    hh, plain, messages = align.read(file)
    assert [turn["content"] for turn in hh.prompt] == ["hi", "hello", "more"]  # type: ignore[index,union-attr]
    assert (hh.chosen, hh.rejected) == ("yes", "no")
    assert (plain.prompt, plain.chosen, plain.margin) == ("a", "b", 2)
    assert (messages.chosen, messages.rejected) == ("x", "y")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: is a list"),
        ('{"chosen": "a"}', "item 0: expected chosen, rejected"),
        ('{"chosen": "a", "rejected": "b"}', "starts with"),
        ('{"chosen": "\\n\\nHuman: a", "rejected": "\\n\\nHuman: b"}', "expected assistant"),
        (
            '{"chosen": "\\n\\nHuman: a\\n\\nAssistant: x", "rejected": "\\n\\nHuman: b\\n\\nAssistant: y"}',
            "differ before",
        ),
        ('{"prompt": "p", "chosen": "a", "rejected": "b", "margin": "much"}', "margin"),
    ],
)
def test_bad_files_are_named(text: str, names: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    with pytest.raises(FormatError, match=names):
        align.read(file)
    with pytest.raises(Error, match="no such file"):
        align.read(tmp_path / "none")


@pytest.mark.parametrize(
    ("preference", "names"),
    [
        (align.Preference(prompt=[], chosen=[1], rejected=[2]), "pair 0 has an empty prompt"),
        (align.Preference(prompt=[1], chosen=[], rejected=[2]), "pair 0 has an empty chosen"),
        (align.Preference(prompt=[1], chosen=[3, 4], rejected=[3, 4]), "pair 0 has identical"),
        (align.Preference(prompt=[1] * 60, chosen=[2] * 6, rejected=[3]), "pair 0 has 66 tokens"),
        (align.Preference(prompt=[1], chosen=[99], rejected=[2]), "holds the id 99"),
        (align.Preference(prompt="text", chosen="a", rejected="b"), "tokenizer"),
    ],
)
def test_unfit_pairs_are_named(preference: align.Preference, names: str) -> None:
    model = base()
    model.source = None
    with pytest.raises(InputError, match=names):
        align.encoded(model, [preference])


@pytest.mark.parametrize("name", ["dpo", "orpo"])
def test_a_reply_whose_labels_are_all_masked_is_named(name: str) -> None:
    model = base()
    found = pairs(model)
    masked = Example(found[1].rejected.ids, [-100] * len(found[1].rejected.ids))
    found[1] = Pair(found[1].chosen, masked)
    with pytest.raises(InputError, match="pair 1 has a reply without a token to predict"):
        {"dpo": align.dpo, "orpo": align.orpo}[name](model, found)


def test_unfit_pairs_are_counted_when_dropped() -> None:
    bad = [
        align.Preference(prompt=[], chosen=[1], rejected=[2]),
        align.Preference(prompt=[1], chosen=[5], rejected=[5]),
        align.Preference(prompt=[1], chosen=[5] * 9, rejected=[6]),
    ]
    found = align.encoded(base(), [*bad, PREFERENCES[0]], longest=9, unfit="drop")
    assert (len(found.pairs), found.dropped) == (1, {"empty": 1, "identical": 1, "over-long": 1})
    with pytest.raises(InputError, match="no pair to learn from"):
        align.encoded(base(), bad, longest=9, unfit="drop")


def test_labels_are_those_of_the_reply() -> None:
    assert example([1, 2, 3], [4, 5]).labels == [-100, -100, 4, 5]
    assert example([1, 2, 3], [4, 5]).ids == [1, 2, 3, 4]


def test_a_chat_template_writes_prompt_and_reply(smollm2_gguf: Path) -> None:
    from lmrs import Tokenizer
    from lmrs.align.preferences import prompt_ids, reply_ids

    tokenizer = Tokenizer.load(smollm2_gguf)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    given, said = prompt_ids(tokenizer, turns[:1]), reply_ids(tokenizer, turns[:1], "Hello")
    assert tokenizer.decode(given + said) + "\n" == tokenizer.apply_chat_template(turns)
    assert tokenizer.decode(said) == "Hello<|im_end|>"
