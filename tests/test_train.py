"""Training: the optimiser is AdamW, packing and accumulation change nothing, and a run resumes to the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lmrs
from lmrs import _rs, delta, models, train
from lmrs.backend import native
from lmrs.backend import torch as torch_backend
from lmrs.errors import ConfigError, FileError, FormatError, InputError
from lmrs.nn.module import Parameter
from lmrs.train.objective import Example, NextToken
from lmrs.train.optimiser import Optimiser
from lmrs.train.order import Shuffled

FIXTURES = Path(__file__).parent / "fixtures" / "models"
DOCUMENTS = [np.random.default_rng(n).integers(3, 99, n).tolist() for n in (40, 7, 25, 64, 3)]
RATE = train.AdamW(learning_rate=1e-2, weight_decay=0.1)


def base(family: str = "llama") -> Any:
    return models.load(FIXTURES / family)


def lora(family: str = "llama") -> Any:
    return delta.LoRA(rank=4, dropout=0.1)(base(family))


def weights(model: Any) -> dict[str, Any]:
    return {path: p.data.numpy() for path, p in model.named_parameters().items() if p.trainable}


def run(model: Any, **options: Any) -> train.History:
    settings = {"steps": 10, "batch_tokens": 32, "accumulate": 2, "optimiser": RATE}
    objective = train.clm(model, DOCUMENTS, context=16)
    return train.fit(objective, **{**settings, "schedule": train.Cosine(warmup=3), **options})


def facts(history: train.History) -> list[tuple[Any, ...]]:
    return [(s.step, s.loss, s.tokens, s.rate, s.norm) for s in history.steps]


@given(count=st.integers(1, 300), seed=st.integers(0, 2**64), epoch=st.integers(0, 2**40))
def test_the_order_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    order = [Shuffled(count, seed, epoch)[i] for i in range(count)]
    assert sorted(order) == list(range(count))
    with pytest.raises(IndexError):
        Shuffled(count, seed, epoch)[count]


def test_orders_are_alike_only_by_chance() -> None:
    count = 997
    orders = np.array([[Shuffled(count, *key)[i] for i in range(count)] for key in ((0, 0), (0, 1), (1, 0), (1, 1))])
    for i in range(4):
        assert abs(np.corrcoef(orders[i], np.arange(count))[0, 1]) < 0.1
        assert (np.abs(np.diff(orders[i])) == 1).mean() < 0.02
        for j in range(i):
            assert (orders[i] == orders[j]).sum() < 10
    firsts = [Shuffled(4, seed, 0)[0] for seed in range(4000)]
    assert np.bincount(firsts, minlength=4).min() > 850


@pytest.mark.parametrize("kind", [train.Constant, train.Linear, train.Cosine])
def test_schedules(kind: Any) -> None:
    steps = 20
    factors = [kind(warmup=4)(step, steps) for step in range(steps)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    expected = {
        train.Constant: lambda t: 1.0,
        train.Linear: lambda t: 1 - t,
        train.Cosine: lambda t: (1 + np.cos(np.pi * t)) / 2,
    }[kind]
    assert factors[4:] == pytest.approx([expected((step - 4) / 16) for step in range(4, steps)])
    if kind is not train.Constant:
        assert kind(floor=0.1)(10**6 - 1, 10**6) == pytest.approx(0.1, abs=1e-5)
        with pytest.raises(InputError, match="warmup"):
            kind(warmup=5)(5, 5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_adamw_is_torchs(backend: str, dtype: str) -> None:
    random = np.random.default_rng(0)
    module = {"native": native, "torch": torch_backend}[backend]
    start = {"matrix": random.normal(size=(7, 33)).astype(dtype), "vector": random.normal(size=5).astype(dtype)}
    theirs = {name: torch.nn.Parameter(torch.tensor(values)) for name, values in start.items()}
    groups = [{"params": [theirs["matrix"]]}, {"params": [theirs["vector"]], "weight_decay": 0.0}]
    torch_adamw = torch.optim.AdamW(groups, lr=3e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.2)

    def made(values: Any) -> Any:
        return torch.tensor(values) if backend == "torch" else native.array(values).tensor

    settings = train.AdamW(learning_rate=6e-2, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.2)
    ours = {name: Parameter(shape=values.shape, data=made(values)) for name, values in start.items()}
    optimiser = Optimiser(settings, module)
    for _ in range(12):
        gradients = {name: random.normal(size=values.shape).astype(dtype) for name, values in start.items()}
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[name] / 4)
        torch_adamw.step()
        optimiser.step(ours, {name: made(g) for name, g in gradients.items()}, scale=0.25, factor=0.5)
    for name, parameter in ours.items():
        bound = {"float64": 1e-13, "float32": 1e-6}[dtype]
        assert np.abs(module.numpy(parameter.data) - theirs[name].detach().numpy()).max() <= bound


def total(objective: NextToken, indices: list[int]) -> tuple[float, int, dict[str, Any]]:
    counts = []

    def loss() -> Any:
        value, count = objective.loss(indices, backend="native")
        counts.append(count)
        return value

    value, grads = native.value_and_grad(loss, objective.model)
    return value, counts[0], {path: grad.numpy() for path, grad in grads.items()}


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "mistral"])
def test_packed_is_the_sum_of_single(family: str) -> None:
    objective = train.clm(base(family), DOCUMENTS, context=16)
    everything = list(range(len(objective)))
    packed, count, packed_grads = total(objective, everything)
    singles = [total(objective, [index]) for index in everything]
    assert count == sum(n for _, n, _ in singles) == sum(len(ids) - 1 for ids in DOCUMENTS)
    assert packed == pytest.approx(sum(value for value, _, _ in singles), rel=1e-6)
    for path, grad in packed_grads.items():
        summed = np.sum([grads[path] for _, _, grads in singles if path in grads], axis=0)
        assert np.abs(grad - summed).max() <= 1e-5 * max(1.0, np.abs(summed).max()), path


def test_every_token_is_predicted_once_from_its_own_document() -> None:
    objective = train.clm(base(), DOCUMENTS, context=16)
    assert max(map(objective.tokens, range(len(objective)))) == 16
    pieces = iter(objective.examples)
    for ids in DOCUMENTS:
        read: list[int] = []
        predicted: list[int] = []
        while len(read) < len(ids) - 1:
            example = next(pieces)
            assert len(example.ids) == len(example.labels)
            read, predicted = [*read, *example.ids], [*predicted, *example.labels]
        assert (read, predicted) == (ids[:-1], ids[1:])
    assert next(pieces, None) is None


def test_prompts_are_read_but_not_learnt() -> None:
    model, (prompt, answer) = base(), (DOCUMENTS[1], DOCUMENTS[2])
    objective = train.sft(model, [(prompt, answer), (answer, prompt)])
    assert [label for label in objective.examples[0].labels if label != -100] == answer
    value, count, grads = total(objective, [0])
    assert count == len(answer)
    whole = prompt + answer
    after, _, _ = total(NextToken(model, [Example(whole[:-1], whole[1:])]), [0])
    before, _, _ = total(NextToken(model, [Example(prompt[:-1], prompt[1:])]), [0])
    assert value == pytest.approx(after - before, rel=1e-5)
    assert set(grads) == set(model.named_parameters())


def test_accumulation_follows_the_mean_over_all_terms() -> None:
    one, other = lora(), lora()
    # Everything at once, or in batches of a few examples with unequal numbers of terms.
    once = run(one, steps=1, batch_tokens=10_000, accumulate=1, clip=None)
    objective = train.clm(other, DOCUMENTS, context=16)
    apart = run(other, steps=1, batch_tokens=1, accumulate=len(objective), clip=None)
    assert once.steps[0].tokens == apart.steps[0].tokens
    assert once.losses[0] == pytest.approx(apart.losses[0], rel=1e-6)
    assert once.steps[0].norm > 0
    for path, values in weights(one).items():
        if path.endswith(".a"):
            # B starts at zero, so A has no gradient yet and stays, but for its decay.
            assert np.abs(values - weights(other)[path]).max() <= 1e-6


def test_the_loss_falls_and_torch_agrees() -> None:
    ours, theirs = lora(), torch_backend.place(lora())
    history, torch_history = run(ours), run(theirs)
    assert history.losses[-1] < history.losses[0] - 0.2
    assert torch_history.losses == pytest.approx(history.losses, rel=1e-4)
    assert [s.tokens for s in history.steps] == [s.tokens for s in torch_history.steps]


def test_a_model_from_scratch_learns_its_text() -> None:
    config = base("gpt2").config
    model = lmrs.models.initialise(type(base("gpt2"))(config), seed=0)
    objective = train.clm(model, [[5, 6, 7, 8] * 12], context=32)
    history = train.fit(objective, steps=60, optimiser=train.AdamW(learning_rate=1e-2), batch_tokens=32)
    assert history.losses[0] == pytest.approx(np.log(config.vocabulary), abs=0.3)
    assert history.losses[-1] < 0.1


def test_the_gradient_is_clipped() -> None:
    optimiser = train.AdamW(learning_rate=1.0, beta1=0, beta2=0, eps=1e6)
    # With β = 0 and a huge ε a step is -gradient / ε, so its length shows the clipped norm.
    model = lora()
    before = weights(model)
    history = run(model, steps=1, clip=0.01, optimiser=optimiser, schedule=train.Constant())
    moved = np.sqrt(sum(((before[path] - after) ** 2).sum() for path, after in weights(model).items()))
    assert history.steps[0].norm > 0.01
    assert moved * 1e6 == pytest.approx(0.01, rel=0.05)


def test_a_gradient_that_is_not_finite_is_named_and_changes_nothing() -> None:
    model = lora()
    path = "blocks.1.attn.q.b"
    values = weights(model)[path]
    values[0, 0] = np.inf
    model.named_parameters()[path].data = native.array(values).tensor
    before = weights(model)
    with pytest.raises(InputError, match=r"gradient of .*blocks\.[01]\.attn\.[qv]\.[ab].* not finite"):
        run(model)
    assert all(np.array_equal(after, before[path]) for path, after in weights(model).items())


class Killed(Exception):
    pass


def killed_at(step: int) -> Any:
    def on_step(made: train.Step) -> None:
        if made.step == step:
            raise Killed

    return on_step


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("kill", [5, 7, 9])
def test_a_resumed_run_ends_with_the_same_bits(kill: int, backend: str, tmp_path: Path) -> None:
    def fresh() -> Any:
        return torch_backend.place(lora()) if backend == "torch" else lora()

    def numbers(model: Any) -> dict[str, Any]:
        return weights(torch_backend.fetch(model))

    uninterrupted = fresh()
    history = run(uninterrupted)
    with pytest.raises(Killed):
        run(fresh(), checkpoints=tmp_path, save_every=3, on_step=killed_at(kill))
    model = fresh()
    resumed = run(model, checkpoints=tmp_path, save_every=3, resume=True)
    assert facts(resumed) == facts(history)
    expected = numbers(uninterrupted)
    assert all(np.array_equal(values, expected[path]) for path, values in numbers(model).items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-00000010"]
    again = fresh()
    assert facts(run(again, checkpoints=tmp_path, save_every=3, resume=True)) == facts(history)
    assert all(np.array_equal(values, expected[path]) for path, values in numbers(again).items())


def test_a_run_is_killed_by_the_system_while_it_saves(tmp_path: Path) -> None:
    """Kill -9 at many moments, saving included; the last process goes through to the same bits."""
    script = (
        "import sys; sys.path[:0] = [sys.argv[2]]\nimport test_train as t\n"
        "t.run(t.lora(), checkpoints=sys.argv[1], save_every=1, resume=True, steps=40, "
        "on_step=lambda s: print(s.step, flush=True))"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
    ends = []
    for attempt in range(4):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                # Printed after the save of the step; the kill comes in the middle of a later one.
                if int(line) % 7 == attempt:
                    process.kill()
                    break
        ends.append(process.returncode)
    assert ends == [-9] * 4
    model, uninterrupted = lora(), lora()
    resumed = run(model, checkpoints=tmp_path, save_every=1, resume=True, steps=40)
    assert facts(resumed) == facts(run(uninterrupted, steps=40))
    expected = weights(uninterrupted)
    assert all(np.array_equal(values, expected[path]) for path, values in weights(model).items())


def test_threads_change_nothing() -> None:
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]\nimport test_train as t\nfrom lmrs.fingerprint import fingerprint\n"
        "m = t.lora(); h = t.run(m)\nprint(h.losses, fingerprint(sorted(t.weights(m).items())))"
    )
    answers = set()
    for threads in ("1", "2", "5"):
        command = [sys.executable, "-c", script, str(Path(__file__).parent)]
        environment = {**os.environ, "LMRS_NUM_THREADS": threads}
        answers.add(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert len(answers) == 1


@pytest.mark.parametrize("made", [lora, base])
def test_a_run_writes_the_memory_it_reads(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other, reusing = made("gpt2"), made("gpt2"), native.reusing
    options: dict[str, Any] = {"steps": 3, "batch_tokens": 200}
    expected = facts(run(model, **options))
    monkeypatch.setattr(native, "reusing", lambda: reusing(_rs.Spares.poisoned()))
    assert facts(run(other, **options)) == expected
    for path, values in weights(model).items():
        assert np.array_equal(values, weights(other)[path]), path


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    run(lora(), checkpoints=tmp_path, steps=2)
    with pytest.raises(InputError, match="resume it or choose another"):
        run(lora(), checkpoints=tmp_path, steps=2)
    for options, name in (({"seed": 1}, "seed"), ({"batch_tokens": 33}, "batch_tokens"), ({"clip": 2.0}, "clip")):
        with pytest.raises(InputError, match=name):
            run(lora(), checkpoints=tmp_path, steps=2, resume=True, **options)
    with pytest.raises(InputError, match="frozen"):
        run(lora("mistral"), checkpoints=tmp_path, steps=2, resume=True)
    state = tmp_path / "step-00000002" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "format": "x"}))
    with pytest.raises(FormatError, match=r"state\.json"):
        run(lora(), checkpoints=tmp_path, steps=2, resume=True)


def test_a_failed_save_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    def on_step(made: train.Step) -> None:
        if made.step == 4:
            monkeypatch.setattr("lmrs.train.checkpoint.write_json", full)

    with pytest.raises(FileError, match="No space"):
        run(lora(), checkpoints=tmp_path, save_every=2, on_step=on_step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000004"]


@pytest.mark.parametrize(
    ("call", "error", "names"),
    [
        (lambda: run(base("llama").frozen()), InputError, "no trainable"),
        (lambda: run(lora(), steps=0), InputError, "steps"),
        (lambda: run(lora(), clip=0.0), InputError, "clip"),
        (lambda: train.clm(base("bert"), DOCUMENTS), ConfigError, r"blocks\.0\.attn"),
        (lambda: train.clm(base(), [[]]), InputError, "nothing to train"),
        (lambda: train.clm(base(), [[1, 2], [3, 99]]), InputError, "document 1 holds the id 99"),
        (lambda: train.clm(base(), DOCUMENTS, context=65), InputError, "context is 65"),
        (lambda: train.clm(type(base())(base().config), "text"), InputError, "tokenizer="),
        (lambda: train.sft(base(), [([1], [])]), InputError, "pair 0 has an empty answer"),
        (lambda: train.sft(base(), [([1], [2]), ([1] * 40, [2] * 30)]), InputError, "pair 1 has 70 tokens"),
        (lambda: train.AdamW(beta1=1.0), InputError, "beta1"),
        (lambda: train.AdamW(learning_rate=float("nan")), InputError, "learning_rate"),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        call()
