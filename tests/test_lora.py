"""LoRA: the numbers and the gradients are PEFT's, its directories are read and written, and surgery shares the base."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import peft
import pytest
import torch

import lmrs
from lmrs import _rs, delta, models, ops
from lmrs.backend import native, record
from lmrs.batch import Batch, Ragged
from lmrs.delta import LoRA
from lmrs.errors import ConfigError, FormatError, InputError, MissingFileError
from lmrs.weights import read_safetensors, write_safetensors

FIXTURES = Path(__file__).parent / "fixtures"
FAMILIES = ["gpt2", "llama", "bert", "t5"]
# PEFT asks transformers by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TARGETS = ["*.{attn,cross}.{q,v}", "*.{q,k,v,o,up,down}"]


def fixture_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_peft", FIXTURES / "peft" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = fixture_script()


def base(family: str) -> Any:
    return models.load(FIXTURES / "models" / family)


def hidden(model: Any, ids: list[list[int]]) -> Any:
    """What goes into the head. An encoder-decoder reads the ids reversed and decodes them, as make.py has it."""
    batch = Batch.of(ids)
    if not hasattr(model, "encode"):
        return model.hidden(batch)
    source = Batch.of([sequence[::-1] for sequence in ids])
    memory_seqs = Ragged.of("memory", [len(sequence) for sequence in ids])
    return model.hidden(batch, model.encode(source), memory_seqs)


def logits(model: Any, ids: list[list[int]]) -> Any:
    return model.head(hidden(model, ids)).numpy()


def loss_and_gradients(model: Any, ids: list[list[int]], labels: list[list[int]]) -> tuple[float, dict[str, Any]]:
    """The mean loss, and its gradient as PEFT names and stacks it: they are written as if they were A and B."""
    packed = Batch.of(ids, labels=labels).labels
    loss, grads = native.value_and_grad(lambda: model.head.loss(hidden(model, ids), packed), model)
    graded = model.map_parameters(lambda parameter: parameter)
    for path, parameter in model.named_parameters().items():
        assert (path in grads) == parameter.trainable, path
    places = {id(parameter): grads[path] for path, parameter in model.named_parameters().items() if path in grads}
    graded = model.map_parameters(
        lambda p: type(p)(shape=p.shape, data=places[id(p)]) if id(p) in places else p  # type: ignore[arg-type]
    )
    return loss, delta.peft.write(graded)[1]


def shaken(model: Any, seed: int = 0) -> Any:
    """The tuned model with its B no longer zero."""
    random = np.random.default_rng(seed)
    for path, parameter in model.named_parameters().items():
        if path.endswith(".b"):
            parameter.data = native.array(random.normal(0, 0.1, parameter.shape).astype(np.float32)).tensor
    return model


def close(got: Any, expected: Any, bound: float = 1e-5) -> None:
    """Within ``bound`` of the larger of 1 and the largest magnitude."""
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= bound * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_committed_peft_directory(family: str) -> None:
    expected = dict(np.load(FIXTURES / "peft" / family / "reference.npz"))
    ids, labels = make.inputs()
    assert np.concatenate(ids).tolist() == expected.pop("ids").tolist()
    assert sum(labels, []) == expected.pop("labels").tolist()
    tuned = delta.load(base(family), FIXTURES / "peft" / family)
    close(logits(tuned, ids), expected.pop("logits"))
    loss, gradients = loss_and_gradients(tuned, ids, labels)
    assert loss == pytest.approx(float(expected.pop("loss")), rel=1e-5)
    del expected["lengths"]
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        close(gradients[name], gradient)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True, "r": 5}, {"lora_dropout": 0.5, "lora_alpha": 3}])
@pytest.mark.parametrize("family", FAMILIES)
def test_live_peft_directory(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = make.tuned(family, **settings)
    theirs.save_pretrained(tmp_path)
    ids, labels = make.inputs()
    expected = make.reference(theirs)
    tuned = delta.load(base(family), tmp_path)
    close(logits(tuned, ids), expected["logits"])
    _, gradients = loss_and_gradients(tuned, ids, labels)
    for name, gradient in gradients.items():
        close(gradient, expected[name])


PLAIN: dict[str, Any] = {"rank_pattern": {}, "alpha_pattern": {}}
WHOLE: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"bias": "all"}),
    ("gpt2", {"bias": "lora_only"}),
    ("gpt2", {"target_modules": ["wte", "c_attn"]}),
    ("gpt2", {"modules_to_save": ["ln_f"], "bias": "all"}),
    ("llama", {"target_modules": ["embed_tokens", "q_proj", "lm_head"], **PLAIN}),
    ("llama", {"modules_to_save": ["norm", "lm_head"], "target_modules": ["q_proj"], **PLAIN}),
    ("bert", {"bias": "all"}),
    ("bert", {"target_modules": ["word_embeddings", "query"]}),
]


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize(("family", "settings"), WHOLE)
def test_weights_that_are_saved_whole(
    family: str, settings: dict[str, Any], *, embeddings: bool, tmp_path: Path
) -> None:
    """Trained biases, modules_to_save, and low ranks of tables: theirs here, and what we write of it there."""
    theirs = make.tuned(family, **settings)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad and "lora_" not in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=random)
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=embeddings)
    ids, _ = make.inputs()
    with torch.no_grad():
        expected = make.logits(theirs, ids).numpy()
    tuned = delta.load(base(family), tmp_path / "theirs")
    close(logits(tuned, ids), expected)
    trained = sum(p.data.numpy().size for p in tuned.named_parameters().values() if p.trainable)
    assert trained == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    delta.save(tuned, tmp_path / "ours")
    assert json.loads((tmp_path / "ours/adapter_config.json").read_text())["peft_type"] == "LORA"
    again = make.ADAPTERS[family][0].from_pretrained(FIXTURES / "models" / family)
    again = peft.PeftModel.from_pretrained(again, tmp_path / "ours").eval()
    with torch.no_grad():
        close(make.logits(again, ids).numpy(), expected)
    close(logits(delta.load(base(family), tmp_path / "ours"), ids), expected)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_weights_that_are_not_announced(tmp_path: Path) -> None:
    theirs = make.tuned("gpt2", modules_to_save=["lm_head"])
    theirs.save_pretrained(tmp_path / "tied")
    with pytest.raises(ConfigError, match="lm_head, which is tied to"):
        delta.load(base("gpt2"), tmp_path / "tied")
    theirs = make.tuned("gpt2", bias="all")
    with torch.no_grad():
        theirs.base_model.model.transformer.ln_f.bias += 1
    theirs.save_pretrained(tmp_path / "bias")
    config = json.loads((tmp_path / "bias/adapter_config.json").read_text())
    for changed, error, names in (
        ({"bias": "none"}, FormatError, "is not announced"),
        ({"bias": "some"}, ConfigError, "bias is 'some'"),
        ({"modules_to_save": "ln_f"}, ConfigError, "modules_to_save is 'ln_f'"),
    ):
        (tmp_path / "bias/adapter_config.json").write_text(json.dumps(config | changed))
        with pytest.raises(error, match=names):
            delta.load(base("gpt2"), tmp_path / "bias")


def test_a_low_rank_head_is_scored_with_ranks() -> None:
    tuned = shaken(LoRA(rank=2, targets="head")(base("llama")))
    merged = delta.merge(tuned)
    rows = [lmrs.Engine(model).following([5, 9, 11, 3], top_k=2) for model in (tuned, merged)]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-4)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_ours(family: str, targets: str, *, rslora: bool, tmp_path: Path) -> None:
    tuned = shaken(LoRA(rank=3, alpha=7, targets=targets, rslora=rslora)(base(family)))
    delta.save(tuned, tmp_path / "tuned")
    theirs = make.ADAPTERS[family][0].from_pretrained(FIXTURES / "models" / family)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "tuned").eval()
    ids, _ = make.inputs()
    with torch.no_grad():
        close(logits(tuned, ids), make.logits(theirs, ids).numpy())


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_save_load_and_merge(family: str, targets: str, tmp_path: Path) -> None:
    model = base(family)
    tuned = shaken(LoRA(rank=3, targets=targets)(model))
    ids, _ = make.inputs()
    expected = logits(tuned, ids)
    delta.save(tuned, tmp_path / "a")
    loaded = delta.load(model, tmp_path / "a")
    assert np.array_equal(logits(loaded, ids), expected)
    kept, again = tuned.named_parameters(), loaded.named_parameters()
    assert kept.keys() == again.keys()
    assert all(np.array_equal(kept[path].data.numpy(), again[path].data.numpy()) for path in kept)
    delta.save(loaded, tmp_path / "b")
    assert (tmp_path / "a" / "lmrs.json").read_bytes() == (tmp_path / "b" / "lmrs.json").read_bytes()
    merged = delta.merge(tuned)
    close(logits(merged, ids), expected)
    assert merged.named_parameters().keys() == model.named_parameters().keys()
    assert all(parameter.trainable for parameter in merged.named_parameters().values())


@pytest.mark.parametrize("family", FAMILIES)
def test_starts_as_the_base_and_shares_it(family: str) -> None:
    model = base(family)
    tuned = LoRA()(model)
    ids, _ = make.inputs()
    assert np.array_equal(logits(tuned, ids), logits(model, ids))
    parameters = tuned.named_parameters()
    assert {path.rpartition(".")[2] for path, p in parameters.items() if p.trainable} == {"a", "b"}
    assert all(p.trainable for p in model.named_parameters().values())
    ours = {p.data.id for p in parameters.values() if not p.trainable}
    assert ours == {p.data.id for p in model.named_parameters().values()}
    a = parameters[next(path for path in parameters if path.endswith(".q.a"))].data.numpy()
    assert 0.9 < np.abs(a).max() * np.sqrt(a.shape[1]) <= 1
    other = LoRA(seed=1)(model).named_parameters()
    assert not any(
        np.array_equal(p.data.numpy(), other[path].data.numpy())
        for path, p in parameters.items()
        if path.endswith(".a")
    )


def test_loras_stack(tmp_path: Path) -> None:
    model = base("llama")
    first = shaken(LoRA(rank=2)(model))
    second = shaken(LoRA(rank=3, targets="*.attn.q", seed=1)(first.frozen()), seed=1)
    ids, labels = make.inputs()
    trainable = {path for path, p in second.named_parameters().items() if p.trainable}
    assert trainable == {f"blocks.{i}.attn.q.{name}" for i in range(2) for name in "ab"}
    close(logits(delta.merge(second), ids), logits(second, ids))
    delta.save(second, tmp_path / "both")
    loaded = delta.load(model, tmp_path / "both")
    assert np.array_equal(logits(loaded, ids), logits(second, ids))
    assert {path for path, p in loaded.named_parameters().items() if p.trainable} > trainable
    batch = Batch.of(ids, labels=labels)
    _, grads = native.value_and_grad(lambda: second.head.loss(second.hidden(batch), batch.labels), second)
    assert grads.keys() == trainable


def test_recorded_is_eager() -> None:
    tuned = shaken(LoRA(rank=2, dropout=0.5)(base("llama")))
    program = record.record(tuned, lambda batch: tuned.head(tuned.hidden(batch)))
    assert ("low_rank", "blocks.0.attn.q") in program.nodes
    ids, _ = make.inputs()
    batch = Batch.of(ids)
    inputs = {name: getattr(batch, name).tensor for name in program.inputs}
    (run,) = program.run(inputs, [("tokens", batch.seqs.starts.tolist())])
    assert np.array_equal(run.numpy(), logits(tuned, ids))


def test_dropout_acts_only_where_gradients_are_taken() -> None:
    tuned = shaken(LoRA(rank=2, dropout=0.5)(base("gpt2")))
    ids, labels = make.inputs()
    batch = Batch.of(ids, labels=labels)

    def loss(randomness: tuple[int, int] | None) -> float:
        value, _ = native.value_and_grad(
            lambda: tuned.head.loss(tuned.hidden(batch), batch.labels), tuned, randomness=randomness
        )
        return value

    assert loss(None) == tuned.head.loss(tuned.hidden(batch), batch.labels).item()
    assert loss((1, 1)) == loss((1, 1))
    assert len({loss(None), loss((1, 1)), loss((1, 2)), loss((2, 1))}) == 4


@pytest.mark.parametrize(
    ("options", "error", "names"),
    [
        ({"rank": 0}, InputError, "rank"),
        ({"dropout": 1.0}, InputError, "dropout"),
        ({"alpha": float("nan")}, InputError, "alpha"),
        ({"targets": "*.attn.query"}, ConfigError, r"attn\.query"),
        ({"bias": "some"}, InputError, "bias"),
        ({"ranks": {"*.q": 0}}, InputError, "ranks"),
        ({"targets": "re:(", "rank": 1}, ConfigError, "regular"),
        ({"targets": "*.norm1"}, ConfigError, "LayerNorm"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        LoRA(**options)(base("gpt2"))


def copied(family: str, path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "peft" / family, path / "adapter"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "XLORA"),
        ("lora_bias", True),
        ("init_lora_weights", "pissa_niter_4"),
        ("target_parameters", ["x"]),
        ("layer_replication", [[0, 2]]),
        ("use_something_new", True),
        ("something_new_config", {"a": 1}),
        ("rank_pattern", {"(a+)+b": 4}),
        ("rank_pattern", {"(": 4}),
        ("rank_pattern", 3),
        ("lora_alpha", "8"),
    ],
)
def test_an_active_setting_is_refused_by_name(field: str, value: Any, tmp_path: Path) -> None:
    path = copied("gpt2", tmp_path)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(ConfigError, match=field):
        delta.load(base("gpt2"), path)


def test_an_inert_setting_is_ignored(tmp_path: Path) -> None:
    path = copied("gpt2", tmp_path)
    config = json.loads((path / "adapter_config.json").read_text())
    new = {"use_something_new": False, "something_new_size": 16, "something_new_config": None, "peft_version": "9.9"}
    (path / "adapter_config.json").write_text(json.dumps(config | new))
    ids, _ = make.inputs()
    close(logits(delta.load(base("gpt2"), path), ids), np.load(path / "reference.npz")["logits"])


@pytest.mark.parametrize(
    ("change", "error", "names"),
    [
        (lambda t, a: t.pop(a), FormatError, "missing"),
        (lambda t, a: t.update({a: native.array(np.zeros((2, 32), np.float32)).tensor}), FormatError, "lora_A"),
        (lambda t, a: t.update({a: native.array(np.zeros((3, 8), np.float32)).tensor}), FormatError, "c_attn"),
        (lambda t, a: t.update({"lora_magnitude_vector": t[a]}), FormatError, "lora_magnitude_vector"),
        (lambda t, a: t.clear(), FormatError, "no tensors"),
        (
            lambda t, a: t.update({n.replace("h.0", "h.9"): t[n] for n in list(t)}),
            ConfigError,
            r"h\.9\.",
        ),
    ],
)
def test_tensors_that_do_not_fit(change: Any, error: type[Exception], names: str, tmp_path: Path) -> None:
    path = copied("gpt2", tmp_path)
    tensors = dict(read_safetensors(path / "adapter_model.safetensors"))
    change(tensors, "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight")
    write_safetensors(path / "adapter_model.safetensors", tensors, metadata={"format": "pt"})
    with pytest.raises(error, match=names):
        delta.load(base("gpt2"), path)


def test_another_base_is_refused(tmp_path: Path) -> None:
    model = base("gpt2")
    delta.save(LoRA()(model), tmp_path / "a")
    other = base("gpt2")
    weight = other.named_parameters()["blocks.1.ff.up.weight"]
    values = weight.data.numpy()
    values[3, 4] += 1e-6
    weight.data = _rs.Tensor.from_numpy(values)
    with pytest.raises(ConfigError, match="trained on"):
        delta.load(other, tmp_path / "a")
    delta.load(other, tmp_path / "a", any_base=True)
    with pytest.raises(ConfigError, match="does not have"):
        delta.load(base("llama"), FIXTURES / "peft" / "gpt2")


def test_a_save_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = base("gpt2"), tmp_path / "tuned"
    tuned = shaken(LoRA()(model))
    delta.save(tuned, path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lmrs.delta.checkpoint.write_json", fails)
        with pytest.raises(OSError, match="No space"):
            delta.save(shaken(tuned, seed=3), path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["tuned"]
    delta.save(shaken(tuned, seed=3), path)
    assert (path / "adapter_model.safetensors").read_bytes() != before["adapter_model.safetensors"]
    (path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        delta.save(tuned, path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="adapter_config"):
        delta.load(base("gpt2"), tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(FormatError, match="adapter_config"):
        delta.load(base("gpt2"), tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(MissingFileError, match="adapter_model"):
        delta.load(base("gpt2"), tmp_path)


def test_a_trained_base_is_not_silently_lost(tmp_path: Path) -> None:
    tuned = LoRA()(base("gpt2"))
    tuned.named_parameters()["blocks.0.norm1.weight"].trainable = True
    with pytest.raises(ConfigError, match=r"blocks\.0\.norm1\.weight"):
        delta.save(tuned, tmp_path / "a")
    with pytest.raises(ConfigError, match="no delta"):
        delta.save(base("gpt2"), tmp_path / "a")
    with pytest.raises(ConfigError, match="no delta"):
        delta.merge(base("gpt2"))


def test_public_names() -> None:
    assert lmrs.delta.LoRA is LoRA
    assert ops.low_rank.__doc__
