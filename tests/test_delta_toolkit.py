"""Deltas together: pairs of methods, their algebra, their tree, training that needs more than a loss, the engine."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import lmrs
from lmrs import delta, models, train
from lmrs.backend import native
from lmrs.batch import Batch
from lmrs.cli import main
from lmrs.delta import (
    IA3,
    AdaLoRA,
    Adapter,
    BitFit,
    DiffPruning,
    DoRA,
    Ladder,
    LoRA,
    Method,
    NormTuning,
    Prefix,
    Prompt,
    Subset,
    VeRA,
)
from lmrs.delta.tree import deltas, methods, own_parameters, stripped
from lmrs.errors import ConfigError, InputError

FIXTURES = Path(__file__).parent / "fixtures"
IDS, LABELS = [[5, 9, 11], [3, 20, 8, 41, 6]], [[9, 11, 4], [20, 8, 41, 6, 2]]
PARTS: dict[str, Method] = {
    "LoRA": LoRA(rank=2, targets="*.{q,down}"),
    "VeRA": VeRA(rank=3),
    "Adapter": Adapter(width=2),
    "Prefix": Prefix(length=2),
    "Prompt": Prompt(length=2),
    "IA3": IA3(),
    "BitFit": BitFit(),
    "NormTuning": NormTuning(),
    "Ladder": Ladder(reduction=2),
}
# One takes the places of the other; a ladder is put on first.
IMPOSSIBLE = {("Prefix", "Prompt"): "already", ("Prompt", "Prefix"): "already", ("Adapter", "Ladder"): "cannot narrow"}


def base(family: str = "llama") -> Any:
    return models.load(FIXTURES / "models" / family)


def shaken(model: Any, seed: int = 0, size: float = 0.1) -> Any:
    random = np.random.default_rng(seed)
    for parameter in own_parameters(model).values():
        values = parameter.data.numpy() + random.normal(0, size, parameter.shape)
        parameter.data = native.array(values.astype(np.float32)).tensor
    return model


def logits(model: Any, ids: list[list[int]] = IDS) -> Any:
    return model.head(model.hidden(Batch.of(ids))).numpy()


def close(got: Any, expected: Any, bound: float = 1e-5) -> None:
    assert np.abs(got - expected).max() <= bound * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(PARTS, 2)))
def test_pairs(first: str, second: str, family: str, tmp_path: Path) -> None:
    """Both are trained, both are saved and loaded, and the base is there below."""
    model = base(family)
    if (first, second) in IMPOSSIBLE:
        with pytest.raises(ConfigError, match=IMPOSSIBLE[first, second]):
            PARTS[second](PARTS[first](model))
        return
    tuned = shaken(PARTS[second](PARTS[first](model)))
    assert [type(method) for method in methods(tuned)] == [type(PARTS[first]), type(PARTS[second])]
    own = own_parameters(tuned)
    assert len(own) >= len(own_parameters(PARTS[first](model)))
    batch = Batch.of(IDS, labels=LABELS)
    _, grads = native.value_and_grad(lambda: tuned.head.loss(tuned.hidden(batch), batch.labels), tuned)
    unused = {"pooler.bias", "next_sentence.bias", "pooler.b", "next_sentence.b"}
    assert own.keys() - grads.keys() <= unused
    assert np.array_equal(logits(stripped(tuned)), logits(model))
    assert stripped(tuned).config == model.config
    delta.save(tuned, tmp_path / "both")
    assert np.array_equal(logits(delta.load(model, tmp_path / "both")), logits(tuned))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("name", ["LoRA", "VeRA", "Adapter", "Prefix", "Prompt", "IA3", "BitFit", "Ladder"])
def test_the_engine_serves_it(name: str, family: str) -> None:
    """Greedy tokens of the engine, one at a time from its cache, are those of whole forward passes."""
    tuned = shaken(PARTS[name](base(family)), size=0.3)
    completion = lmrs.Engine(tuned).generate([5, 9, 11], max_tokens=6)
    ids = [5, 9, 11]
    for token in completion.tokens:
        row = logits(tuned, [ids])[-1]
        assert token == int(row.argmax()) or row.max() - row[token] < 1e-4
        ids.append(token)
    assert len(completion.tokens) == 6


@pytest.mark.parametrize("name", ["LoRA", "Adapter", "IA3", "BitFit", "Ladder"])
def test_the_engine_serves_t5(name: str) -> None:
    tuned = shaken(PARTS[name](base("t5")))
    assert len(lmrs.Engine(tuned).generate([5, 9, 11], max_tokens=3).tokens) == 3


def test_detach_takes_some_and_leaves_some() -> None:
    model = base()
    tuned = shaken(BitFit()(LoRA(rank=2)(Prefix(length=2)(model))))
    without = delta.detach(tuned, "blocks.0.*")
    paths = {path.split(".")[1] for path in deltas(without)}
    assert paths == {"1"}
    assert np.abs(logits(without) - logits(tuned)).max() > 1e-4
    lora = shaken(LoRA(rank=2)(model))
    assert np.array_equal(logits(delta.detach(lora, "*")), logits(model))
    with pytest.raises(ConfigError, match=r"blocks\.0\.attn\.q"):
        delta.detach(lora, "*.down")


def test_a_path_a_glob_and_a_regular_expression_address_the_same() -> None:
    model = base()
    named = [LoRA(targets=t)(model) for t in ("blocks.1.attn.q", "*.1.*.q", r"re:blocks\.[1-9]\.attn\.q")]
    assert [list(deltas(found)) for found in named] == [["blocks.1.attn.q"]] * 3


def two() -> tuple[Any, Any, Any]:
    model = base()
    one = shaken(LoRA(rank=2, alpha=3)(model))
    return model, one, shaken(LoRA(rank=3, targets="*.attn.{q,k}", seed=1)(model), seed=1)


def sums(models: list[Any], weights: list[float]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for model, weight in zip(models, weights, strict=True):
        for path, change in delta.changes(model).items():
            total[path] = total.get(path, 0) + weight * change
    return total


@pytest.mark.parametrize("weights", [[1.0, 1.0], [-1.0, 0.0], [0.25, 0.75]])
def test_sums_are_exact(weights: list[float]) -> None:
    _, one, other = two()
    expected = sums([one, other], weights)
    for how, rank in (("concat", None), ("svd", 5)):
        got = delta.changes(delta.combine([one, other], weights, how=how, rank=rank))
        assert got.keys() == expected.keys()
        for path, change in got.items():
            assert np.abs(change - expected[path]).max() < 1e-6, path


def test_a_cut_is_the_nearest_of_its_rank() -> None:
    _, one, other = two()
    whole = sums([one, other], [1, 1])
    for path, change in delta.changes(delta.combine([one, other], how="svd", rank=1)).items():
        singular = np.linalg.svd(whole[path], compute_uv=False)
        assert np.linalg.norm(whole[path] - change) == pytest.approx(np.sqrt((singular[1:] ** 2).sum()), abs=1e-5)


def test_ties_and_dare() -> None:
    model, one, other = two()
    q = "blocks.0.attn.q"
    a, b = (delta.changes(found)[q] for found in (one, other))
    ties = delta.changes(delta.combine([one, other], how="ties", density=1.0, rank=32))[q]
    elected = np.sign(a + b)
    both = (np.sign(a) == elected) & (np.sign(b) == elected)
    expected = np.where(both, (a + b) / 2, np.where(np.sign(a) == elected, a, b))
    assert np.abs(ties - expected).max() < 1e-5
    sparse = delta.from_changes(model, {q: a}, rank=32)
    dare = delta.changes(delta.combine([sparse], how="dare", density=0.5, rank=32, seed=3))[q]
    kept = np.abs(dare) > 1e-6
    assert 0.4 < kept.mean() < 0.6
    assert np.abs(dare - np.where(kept, 2 * a, 0)).max() < 1e-5


def test_what_cannot_be_added_is_named() -> None:
    model, one, _ = two()
    with pytest.raises(ConfigError, match="different bases"):
        delta.combine([one, shaken(LoRA()(base("gpt2")))])
    with pytest.raises(ConfigError, match="svd"):
        delta.combine([DoRA(rank=2)(model)])
    with pytest.raises(ConfigError, match="virtual|prefix"):
        delta.changes(Prefix(length=2)(model))
    with pytest.raises(InputError, match="density"):
        delta.combine([one], how="dare", density=0)
    with pytest.raises(InputError, match="weights"):
        delta.combine([one], [1, 2])


def test_a_lora_between_two_models() -> None:
    model, one, _ = two()
    found = delta.extract(model, delta.merge(one), rank=2)
    close(logits(found), logits(one), 1e-4)
    with pytest.raises(ConfigError, match="no projection"):
        delta.extract(model, model, targets="*.nothing")


def test_errors_of_merging() -> None:
    _, one, _ = two()
    plain, coarse = (delta.merge_errors(one, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert plain.keys() == coarse.keys() == delta.changes(one).keys()
    assert all(plain[path] < 1e-5 < coarse[path] < 0.5 for path in plain)


def test_the_tree() -> None:
    model = base()
    tuned = LoRA(rank=2)(model)
    found = delta.summary(tuned)
    assert found.own == found.trainable == sum(p.size for p in own_parameters(tuned).values())
    assert found.parameters == found.own + delta.summary(model).parameters
    assert found.percent == pytest.approx(100 * found.own / found.parameters)
    text = delta.show(tuned)
    assert "LowRank" in text
    assert "blocks.0 … 1 (2 ×)" in text
    assert f"{found.own:,} of {found.parameters:,}" in text
    assert "LowRank" not in delta.show(model)
    page = delta.show_html(tuned)
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert page.count("LowRank") == text.count("LowRank")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"delta_type": "lora", "lora_r": 4, "modified_modules": ["attn.q", "ff.w1"]}, {"rank": 4}),
        ({"delta_type": "lora", "modified_modules": ["[r]blocks\\.0\\.attn\\.[qv]"]}, {"rank": 8}),
        ({"delta_type": "adapter", "bottleneck_dim": 3}, {"width": 3}),
        ({"delta_type": "parallel_adapter", "scaled": 0.5}, {"scale": 0.5, "placement": "parallel"}),
        ({"delta_type": "low_rank_adapter", "reduction_factor": 4}, {"reduction": 4}),
        ({"delta_type": "compacter", "reduction_factor": 4, "hypercomplex_division": 2}, {"division": 2}),
        ({"delta_type": "prefix", "prefix_token_num": 3, "mid_dim": 4}, {"length": 3, "inner": 4}),
        ({"delta_type": "soft_prompt", "soft_token_num": 3}, {"length": 3}),
        ({"delta_type": "bitfit"}, {"add": True}),
    ],
)
def test_opendelta(config: dict[str, Any], expected: dict[str, Any]) -> None:
    method = delta.from_opendelta(config)
    assert {name: getattr(method, name) for name in expected} == expected
    tuned = method(base())
    if "modified_modules" in config:
        ends = {path.rpartition(".")[2] for path in deltas(tuned)}
        assert ends == ({"q", "up"} if "lora_r" in config else {"q", "v"})
    with pytest.raises(ConfigError, match="delta_type"):
        delta.from_opendelta({"delta_type": "unipelt"})


DOCUMENTS = [[3, 7, 11, 3, 7, 11, 3, 7, 11], [20, 8, 20, 8, 20, 8]]


def fitted(method: Method, **options: Any) -> tuple[Any, list[float]]:
    tuned = method(base())
    objective = train.clm(tuned, DOCUMENTS)
    return tuned, train.fit(objective, steps=30, optimiser=train.AdamW(learning_rate=2e-2), **options).losses


@pytest.mark.parametrize("name", ["LoRA", "Adapter", "Prefix", "IA3", "BitFit", "Ladder"])
def test_training_learns(name: str) -> None:
    tuned, losses = fitted(PARTS[name])
    assert losses[-1] < losses[0] - 0.3
    assert np.array_equal(logits(stripped(tuned)), logits(base()))


def test_adalora_spends_a_budget() -> None:
    tuned = AdaLoRA(rank=4, target_rank=1)(base())
    objective = train.clm(tuned, DOCUMENTS)
    penalised = train.Penalised(objective, delta.orthogonality, weight=0.1)
    before = delta.orthogonality(tuned).item()
    budget = delta.Budget(tuned, total=20, warmup=2, final=5)
    optimiser = train.AdamW(learning_rate=2e-2)
    losses = train.fit(penalised, steps=20, optimiser=optimiser, on_gradient=budget.after).losses
    kept = [int((module.e.data.numpy() != 0).sum()) for module in deltas(tuned).values()]  # type: ignore[attr-defined]
    assert sum(kept) == len(kept)
    assert delta.orthogonality(tuned).item() < before
    assert losses[-1] < losses[0]


def test_diff_pruning_closes_its_gates() -> None:
    tuned = DiffPruning(gate=0.0)(base())
    before = delta.expected_count(tuned).item()
    penalised = train.Penalised(train.clm(tuned, DOCUMENTS), delta.expected_count, weight=1.0)
    train.fit(penalised, steps=60, optimiser=train.AdamW(learning_rate=5e-2))
    assert delta.expected_count(tuned).item() < before / 2
    masks = np.concatenate([module.mask().numpy().ravel() for module in deltas(tuned).values()])  # type: ignore[attr-defined]
    assert (masks == 0).mean() > 0.9


def test_lora_plus_has_two_rates() -> None:
    slow, fast = (train.AdamW(learning_rate=1e-3, rates=rates) for rates in ({}, {"*.b": 16}))
    assert (fast.rate("blocks.0.attn.q.b"), fast.rate("blocks.0.attn.q.a")) == (16e-3, 1e-3)
    ends = []
    for optimiser in (slow, fast):
        tuned = LoRA(rank=2)(base())
        train.fit(train.clm(tuned, DOCUMENTS), steps=1, optimiser=optimiser)
        ends.append({path: p.data.numpy() for path, p in own_parameters(tuned).items()})
    q = "blocks.0.attn.q"
    assert np.array_equal(ends[0][f"{q}.a"], ends[1][f"{q}.a"])
    assert np.allclose(16 * ends[0][f"{q}.b"], ends[1][f"{q}.b"], rtol=1e-4)
    with pytest.raises(InputError, match="rates"):
        train.AdamW(rates={"*": -1})


def test_a_ladder_keeps_nothing_of_the_backbone() -> None:
    """No op of the backbone is on the way back: its weights may be anything to the tape, and get no gradient."""
    tuned = shaken(Ladder(reduction=2)(base()))
    inner = stripped(tuned)
    batch = Batch.of(IDS, labels=LABELS)
    _, grads = native.value_and_grad(lambda: tuned.head.loss(tuned.hidden(batch), batch.labels), tuned)
    assert grads.keys() == own_parameters(tuned).keys()
    assert all(not p.trainable for p in inner.named_parameters().values())


def test_a_subset_stays_tied() -> None:
    tuned = Subset(parameters="embed.weight")(base("gpt2"))
    assert tuned.embed.weight is tuned.head.weight
    assert list(own_parameters(tuned)) == ["embed.weight"]
    with pytest.raises(ConfigError, match="nothing"):
        Subset(parameters="nothing")(base())


def run(*arguments: object, status: int = 0) -> Any:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


def test_the_command_line(tmp_path: Path) -> None:
    model = FIXTURES / "models" / "llama"
    _, one, other = two()
    for name, tuned in (("one", one), ("other", other), ("prefix", Prefix(length=2)(base()))):
        delta.save(tuned, tmp_path / name)
    text = run("delta", "show", model, tmp_path / "one", "--html", tmp_path / "page.html").stdout
    assert "LowRank" in text
    assert (tmp_path / "page.html").read_text().startswith("<!doctype")
    assert json.loads(run("delta", "show", model, tmp_path / "one", "--json").stdout)["methods"] == ["LoRA"]
    run("delta", "merge", model, tmp_path / "one", "--out", tmp_path / "merged")
    close(logits(models.load(tmp_path / "merged")), logits(one))
    run("delta", "combine", model, tmp_path / "one", tmp_path / "other", "--weights", "1,-2", "-o", tmp_path / "both")
    expected = sums([one, other], [1, -2])
    for path, change in delta.changes(delta.load(base(), tmp_path / "both")).items():
        assert np.abs(change - expected[path]).max() < 1e-6
    run("delta", "convert", model, tmp_path / "one", "--rank", 1, "--out", tmp_path / "small")
    assert methods(delta.load(base(), tmp_path / "small"))[0].rank == 1  # type: ignore[attr-defined]
    (tmp_path / "opendelta.json").write_text('{"delta_type": "lora", "lora_r": 3}')
    run("delta", "convert", model, tmp_path / "opendelta.json", "--out", tmp_path / "fresh")
    refused = run("delta", "merge", model, tmp_path / "prefix", "--out", tmp_path / "no", status=1)
    assert "cannot be merged" in refused.output
    assert not (tmp_path / "no").exists()


def test_what_is_merged_is_whole(minilm_dir: Path, tmp_path: Path) -> None:
    """Its words, and how its sentences are pooled, go with it; so does where texts end."""
    model: Any = models.load(minilm_dir)
    tuned = delta.LoRA(rank=2)(model)
    draw = np.random.default_rng(1)
    for parameter in tuned.named_parameters().values():
        if parameter.trainable:
            parameter.data = native.array(draw.normal(0, 0.05, parameter.shape).astype(np.float32)).tensor
    delta.save(tuned, tmp_path / "one")
    for _ in range(2):  # what is there is replaced
        run("delta", "merge", minilm_dir, tmp_path / "one", "-o", tmp_path / "merged")
    texts = ["A cat sat.", "long " * 300]
    merged = lmrs.SentenceEncoder(tmp_path / "merged")
    expected = lmrs.Engine(tuned).embed(texts, truncate=True)
    np.testing.assert_allclose(merged.encode(texts), expected, rtol=0, atol=1e-5)
    assert merged.max_seq_length == 256
    models.save(models.load(FIXTURES / "models" / "gpt2"), tmp_path / "again")
    name = "generation_config.json"
    assert (tmp_path / "again" / name).read_bytes() == (FIXTURES / "models" / "gpt2" / name).read_bytes()
