"""Training in bfloat16 on the CPU: products are rounded within their bound, and everything else is what it was."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmrs import delta, models, ops, train
from lmrs.backend import native
from lmrs.errors import InputError

FIXTURES = Path(__file__).parent / "fixtures" / "models"
DOCUMENTS = [np.random.default_rng(n).integers(3, 99, n).tolist() for n in (40, 7, 25, 64, 3)]
DECODERS = ["gpt2", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma2"]
METHODS = {
    "lora": delta.LoRA(rank=4, dropout=0.1),
    "prefix": delta.Prefix(length=3),
    "adapter": delta.Adapter(),
    "bitfit": delta.BitFit(),
}
UNIT = 2.0**-7
"""What a product of two rounded numbers is off by at most, of its size; sums of a few hundred add little to it."""


def base(family: str = "llama") -> Any:
    return models.load(FIXTURES / family)


def lora(family: str = "llama") -> Any:
    return METHODS["lora"](base(family))


def run(model: Any, **options: Any) -> train.History:
    settings: dict[str, Any] = {"steps": 6, "batch_tokens": 32, "accumulate": 2, "dtype": "bf16"}
    settings |= {"optimiser": train.AdamW(learning_rate=1e-2), "schedule": train.Cosine(warmup=3)}
    return train.fit(train.clm(model, DOCUMENTS, context=16), **{**settings, **options})


def facts(history: train.History) -> list[tuple[Any, ...]]:
    return [(s.step, s.loss, s.tokens, s.rate, s.norm) for s in history.steps]


def weights(model: Any) -> dict[str, bytes]:
    return {path: p.data.numpy().tobytes() for path, p in model.named_parameters().items()}


def gradients(call: Any, *operands: Any) -> list[Any]:
    """The output of ``call`` in bfloat16, and the gradients of its sum."""
    values = [native.array(x.astype(np.float32) if x.dtype.kind == "f" else x) for x in operands]
    seen: list[native.Array] = []

    def loss() -> Any:
        seen.append(call(*values))
        return ops.sum(seen[0])

    of = [value for value, x in zip(values, operands, strict=True) if x.dtype.kind == "f"]
    _, grads = native.differentiate(loss, of, dtype="bf16")
    return [x.numpy() for x in (*seen, *grads) if x is not None]


def drawn(*shapes: tuple[int, ...]) -> list[Any]:
    random = np.random.default_rng(sum(map(sum, shapes)))
    return [random.normal(size=shape).astype(np.float32).astype(np.float64) for shape in shapes]


@pytest.mark.parametrize(("tokens", "rank"), [(1, 1), (37, 8), (130, 64)])
def test_a_low_rank_update_is_within_its_bound(tokens: int, rank: int) -> None:
    onto, x, a, b, by = drawn((tokens, 70), (tokens, 90), (rank, 90), (70, rank), (tokens, 70))
    scale = 0.5
    y, _, dx, da, db = gradients(
        lambda *given: ops.mul(ops.low_rank(*given[:4], scale=scale), given[4]), onto, x, a, b, by
    )[:5]
    sizes = [np.abs(v) for v in (x, a, b, by)]
    pairs = [
        (y, (onto + scale * x @ a.T @ b.T) * by, scale * sizes[0] @ sizes[1].T @ sizes[2].T * sizes[3]),
        (dx, scale * by @ b @ a, scale * sizes[3] @ sizes[2] @ sizes[1]),
        (da, scale * (by @ b).T @ x, scale * (sizes[3] @ sizes[2]).T @ sizes[0]),
        (db, scale * by.T @ (x @ a.T), scale * sizes[3].T @ (sizes[0] @ sizes[1].T)),
    ]
    for got, expected, size in pairs:
        # Two products, one after the other.
        assert (np.abs(got - expected) <= 2.05 * UNIT * size + 1e-6).all()


@pytest.mark.parametrize("tokens", [1, 37, 300])
def test_the_head_is_within_its_bound(tokens: int) -> None:
    x, w = drawn((tokens, 50), (211, 50))
    x, w = 0.3 * x, 0.3 * w
    labels = np.random.default_rng(1).integers(0, 211, tokens).astype(np.int32)
    loss, dx, dw = gradients(lambda *given: ops.cross_entropy(*given, reduction="sum"), x, w, labels)
    logits = x @ w.T
    off = UNIT * 1.01 * (np.abs(x) @ np.abs(w).T).max(axis=1)
    lse = np.log(np.exp(logits).sum(axis=1))
    assert abs(loss.item() - (lse - logits[np.arange(tokens), labels]).sum()) <= 2 * off.sum() + 1e-4
    slope = np.exp(logits - lse[:, None])
    slope[np.arange(tokens), labels] -= 1
    # Where logits are off by e, probabilities are by a factor of exp(2e) at most.
    size = np.abs(slope) * 1.01 * UNIT + np.exp(logits - lse[:, None]) * np.expm1(2 * off)[:, None]
    for got, expected, bound in ((dx, slope @ w, size @ np.abs(w)), (dw, slope.T @ x, size.T @ np.abs(x))):
        assert (np.abs(got - expected) <= bound * 1.01 + 1e-6).all()


def test_what_is_not_taped_is_rounded_alike() -> None:
    x, w = (native.array(values.astype(np.float32)) for values in drawn((5, 40), (7, 40)))
    found: list[Any] = []

    def loss() -> Any:
        with native.still():
            found.append(ops.linear(x, w).numpy())
        found.append(ops.linear(x, w).numpy())
        return ops.sum(ops.linear(x, w))

    native.differentiate(loss, [w], dtype="bf16")
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], ops.linear(x, w).numpy())


def test_64_bits_are_refused() -> None:
    x, w = (native.array(values) for values in drawn((5, 40), (7, 40)))
    with pytest.raises(InputError, match="dtype of the inputs of linear is float64, expected float32"):
        native.differentiate(lambda: ops.sum(ops.linear(x, w)), [w], dtype="bf16")


@pytest.mark.parametrize("family", DECODERS)
def test_families(family: str) -> None:
    wide, narrow = run(base(family), steps=3, dtype="f32"), run(base(family), steps=3)
    assert narrow.losses != wide.losses
    assert narrow.losses == pytest.approx(wide.losses, rel=0.01)


@pytest.mark.parametrize("name", METHODS)
def test_deltas(name: str) -> None:
    frozen, model = weights(base()), METHODS[name](base())
    wide, narrow = run(METHODS[name](base()), dtype="f32"), run(model)
    assert narrow.losses != wide.losses
    assert narrow.losses == pytest.approx(wide.losses, rel=0.01)
    kept = {path.replace(".base.", ".") for path, p in model.named_parameters().items() if not p.trainable}
    now = {path.replace(".base.", "."): values for path, values in weights(model).items()}
    assert all(now[path] == frozen[path] for path in kept & set(frozen))


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    def kill(step: train.Step) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    whole = lora()
    history = run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(lora(), checkpoints=tmp_path, save_every=2, on_step=kill)
    with pytest.raises(InputError, match="dtype"):
        run(lora(), checkpoints=tmp_path, save_every=2, resume=True, dtype="f32")
    resumed = lora()
    assert facts(run(resumed, checkpoints=tmp_path, save_every=2, resume=True)) == facts(history)
    assert weights(resumed) == weights(whole)


def test_threads_change_nothing_and_instructions_little() -> None:
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]\nimport test_bf16 as t\nfrom lmrs.fingerprint import fingerprint\n"
        "m = t.base('gpt2'); h = t.run(m)\nprint(*h.losses)\n"
        "print(fingerprint((p, w.data.numpy()) for p, w in sorted(m.named_parameters().items())))"
    )

    def answer(**environment: str) -> list[str]:
        command = [sys.executable, "-c", script, str(Path(__file__).parent)]
        environment = {**os.environ, **environment}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.splitlines()

    answers = [answer(LMRS_NUM_THREADS=threads) for threads in ("1", "2", "8")]
    assert answers[1:] == answers[:-1]
    plain, expected = (list(map(float, a[0].split())) for a in (answer(LMRS_SIMD="scalar"), answers[0]))
    assert plain == pytest.approx(expected, rel=0.005)
