"""One property suite over every op: complete, native equal to torch, recorded equal to eager, gradients right.

A case is a strategy that draws one call of an op: its operands and how they are passed. Adding an op without a case,
a Rust file, a torch function or a documented function in ``lmrs.ops`` fails :func:`test_complete`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs import _rs, ops
from lmrs.backend import native, record
from lmrs.backend import torch as torch_backend
from lmrs.batch import Ragged
from lmrs.errors import InputError, ShapeError
from lmrs.nn.module import Module, Parameter

ROOT = Path(__file__).parent.parent
Array = npt.NDArray[Any]
KINDS = ["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh", "sigmoid"]


@dataclass(frozen=True)
class Case:
    """``call(*operands)`` with the ``operands`` wrapped for a backend.

    Floats not in ``constant`` are differentiated; ``weights`` (and all vectors) stand in a Program as its parameters.
    """

    operands: tuple[Array | None, ...]
    call: Callable[..., Any]
    streams: tuple[Ragged, ...] = ()
    constant: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()

    def variables(self) -> list[int]:
        """The positions of the operands that have a gradient."""
        floats = [i for i, x in enumerate(self.operands) if x is not None and x.dtype.kind == "f"]
        return [i for i in floats if i not in self.constant]

    def cast(self, dtype: type) -> list[Array | None]:
        """The operands with floats as ``dtype``."""
        return [x.astype(dtype) if x is not None and x.dtype.kind == "f" else x for x in self.operands]


CASES: dict[str, Callable[[st.DrawFn], Case]] = {}


def case(strategy: Callable[[st.DrawFn], Case]) -> Callable[[st.DrawFn], Case]:
    CASES[strategy.__name__.removesuffix("_")] = strategy
    return strategy


def floats(draw: st.DrawFn, *shape: int) -> Array:
    """Normal numbers, none near zero, where relu has its kink."""
    values = np.random.default_rng(draw(st.integers(0, 2**32))).normal(size=shape)
    return np.where(np.abs(values) < 0.01, 0.5, values)


def size(draw: st.DrawFn, most: int = 6) -> int:
    return draw(st.integers(1, most))


def indices(draw: st.DrawFn, count: int, below: int) -> Array:
    return np.array(draw(st.lists(st.integers(0, below - 1), min_size=count, max_size=count)), np.int32)


def lengths(draw: st.DrawFn, sequences: int) -> list[int]:
    return draw(st.lists(st.integers(1, 4), min_size=sequences, max_size=sequences))


@case
def embed(draw: st.DrawFn) -> Case:
    count = size(draw)
    return Case((floats(draw, count, size(draw)), indices(draw, size(draw), count)), ops.embed, weights=(0,))


@case
def rows(draw: st.DrawFn) -> Case:
    count = size(draw)
    return Case((floats(draw, count, size(draw)), indices(draw, size(draw), count)), ops.rows)


@case
def linear(draw: st.DrawFn) -> Case:
    t, i, o = size(draw), size(draw, 19), size(draw, 19)
    bias = floats(draw, o) if draw(st.booleans()) else None
    return Case((floats(draw, t, i), floats(draw, o, i), bias), ops.linear, weights=(1,))


@case
def low_rank(draw: st.DrawFn) -> Case:
    t, i, o, r = size(draw), size(draw), size(draw), size(draw, 3)
    operands = floats(draw, t, o), floats(draw, t, i), floats(draw, r, i), floats(draw, o, r)
    return Case(operands, lambda *x: ops.low_rank(*x, scale=0.7), weights=(2, 3))


@case
def layer_norm(draw: st.DrawFn) -> Case:
    t, d = size(draw), draw(st.integers(2, 9))
    bias = floats(draw, d) if draw(st.booleans()) else None
    return Case((floats(draw, t, d), floats(draw, d), bias), lambda *x: ops.layer_norm(*x, eps=1e-3))


@case
def rms_norm(draw: st.DrawFn) -> Case:
    t, g, runs = size(draw), draw(st.integers(2, 9)), size(draw, 3)
    return Case((floats(draw, t, g * runs), floats(draw, g)), lambda *x: ops.rms_norm(*x, eps=1e-3))


@case
def rope(draw: st.DrawFn) -> Case:
    t, heads, pairs, rest = size(draw), size(draw, 3), size(draw, 3), draw(st.integers(0, 2))
    dim = 2 * pairs + rest
    operands = floats(draw, t, heads * dim), indices(draw, t, 50), np.abs(floats(draw, pairs))
    return Case(operands, lambda *x: ops.rope(*x, head_dim=dim, factor=1.3), constant=(2,))


@case
def attention(draw: st.DrawFn) -> Case:
    sequences, kv_heads, dim = size(draw, 3), size(draw, 2), size(draw, 5)
    heads = kv_heads * size(draw, 2)
    causal, self_attention = draw(st.sampled_from([(True, True), (False, True), (False, False)]))
    queries = Ragged.of("queries", lengths(draw, sequences))
    keys = queries if self_attention else Ragged.of("keys", lengths(draw, sequences))
    t, s = queries.spans()[-1][1], keys.spans()[-1][1]
    operands: list[Array | None] = [floats(draw, t, heads * dim), *(floats(draw, s, kv_heads * dim) for _ in "kv")]
    relative = None
    if draw(st.booleans()):
        relative = {"buckets": 4, "max_distance": 3, "bidirectional": not causal}
    operands.append(None if relative is None else floats(draw, 4, heads))
    prefix = size(draw, 3) if draw(st.booleans()) else None
    operands += [None if prefix is None else floats(draw, prefix, kv_heads * dim) for _ in "kv"]
    options = {
        "heads": heads,
        "kv_heads": kv_heads,
        "scale": 0.4,
        "causal": causal,
        "window": draw(st.sampled_from([None, 1, 2])),
        "softcap": draw(st.sampled_from([None, 1.5])),
        "relative": relative,
        "alibi": draw(st.sampled_from([None, [0.5 / (1 + head) for head in range(heads)]])),
    }
    call = lambda *x: ops.attention(*x, queries=queries, keys=keys, **options)  # noqa: E731
    return Case(tuple(operands), call, (queries, keys) if keys is not queries else (queries,), weights=(3, 4, 5))


@case
def activation(draw: st.DrawFn) -> Case:
    kind = draw(st.sampled_from(KINDS))
    return Case((floats(draw, size(draw), size(draw)),), lambda x: ops.activation(x, kind=kind))


@case
def gated(draw: st.DrawFn) -> Case:
    t, d, kind = size(draw), size(draw), draw(st.sampled_from(KINDS))
    return Case((floats(draw, t, d), floats(draw, t, d)), lambda *x: ops.gated(*x, kind=kind))


def broadcast(draw: st.DrawFn, op: Callable[..., Any]) -> Case:
    t, d = size(draw), size(draw)
    shape = draw(st.sampled_from([(t, d), (d,), (1, d)]))
    return Case((floats(draw, t, d), floats(draw, *shape)), op, weights=() if shape[0] == t else (1,))


@case
def add(draw: st.DrawFn) -> Case:
    return broadcast(draw, ops.add)


@case
def mul(draw: st.DrawFn) -> Case:
    return broadcast(draw, ops.mul)


@case
def scale(draw: st.DrawFn) -> Case:
    by = draw(st.sampled_from([-2.5, 0.0, 1.0]))
    return Case((floats(draw, size(draw), size(draw)),), lambda x: ops.scale(x, by=by))


@case
def concat(draw: st.DrawFn) -> Case:
    t = size(draw)
    return Case(tuple(floats(draw, t, size(draw)) for _ in range(size(draw, 3))), ops.concat)


@case
def stack(draw: st.DrawFn) -> Case:
    d, parts = size(draw), size(draw, 3)
    return Case(tuple(floats(draw, size(draw), d) for _ in range(parts)), ops.stack, weights=tuple(range(parts)))


@case
def transpose(draw: st.DrawFn) -> Case:
    return Case((floats(draw, size(draw), size(draw)),), ops.transpose, weights=(0,))


@case
def kron(draw: st.DrawFn) -> Case:
    operands = floats(draw, size(draw, 3), size(draw, 3)), floats(draw, size(draw, 3), size(draw, 3))
    return Case(operands, ops.kron, weights=(0, 1))


@case
def inverse_norm(draw: st.DrawFn) -> Case:
    return Case((floats(draw, size(draw), size(draw)),), ops.inverse_norm, weights=(0,))


@case
def columns(draw: st.DrawFn) -> Case:
    d = size(draw)
    start = draw(st.integers(0, d - 1))
    stop = draw(st.integers(start + 1, d))
    return Case((floats(draw, size(draw), d),), lambda x: ops.columns(x, start=start, stop=stop))


@case
def pool(draw: st.DrawFn) -> Case:
    kind, tokens = draw(st.sampled_from(["mean", "first", "last", "max"])), Ragged.of("tokens", lengths(draw, 3))
    x = floats(draw, tokens.spans()[-1][1], size(draw))
    return Case((x,), lambda x: ops.pool(x, tokens, kind=kind), (tokens,))


@case
def lstm(draw: st.DrawFn) -> Case:
    tokens = Ragged.of("tokens", draw(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any)))
    t, sequences, i, c = tokens.spans()[-1][1], len(tokens.spans()), size(draw, 4), size(draw, 4)
    projected = draw(st.booleans())
    p = size(draw, 3) if projected else c
    optional = [(4 * c,), (p, c) if projected else None, (sequences, p), (sequences, c)]
    given = [
        floats(draw, *shape) if shape and (k == 1 or draw(st.booleans())) else None for k, shape in enumerate(optional)
    ]
    attributes = {"reverse": draw(st.booleans()), "memory": draw(st.booleans())}
    # Far from what is cut to, so that central differences see no kink.
    clips = draw(st.sampled_from([{}, {"cell_clip": 50.0}, {"cell_clip": 1e-3, "output_clip": 50.0}]))

    def call(x: Any, wx: Any, ws: Any, bias: Any, projection: Any, hidden: Any, cell: Any) -> Any:
        states = {"bias": bias, "projection": projection, "hidden": hidden, "cell": cell}
        return ops.lstm(x, wx, ws, tokens, **states, **attributes, **clips)

    operands = floats(draw, t, i), floats(draw, 4 * c, i), floats(draw, 4 * c, p)
    return Case((*operands, *given), call, (tokens,), weights=(1, 2, 4))


@case
def char_conv(draw: st.DrawFn) -> Case:
    words = Ragged.of("characters", draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)))
    d, width, o = size(draw, 3), size(draw, 4), size(draw, 5)
    bias = floats(draw, o) if draw(st.booleans()) else None
    operands = floats(draw, words.spans()[-1][1], d), floats(draw, o, width * d), bias
    return Case(operands, lambda x, w, b: ops.char_conv(x, w, words, b), (words,), weights=(1,))


@case
def dropout(draw: st.DrawFn) -> Case:
    return Case((floats(draw, size(draw), size(draw)),), lambda x: ops.dropout(x, rate=0.4, site="here"))


def labelled(draw: st.DrawFn, op: Callable[..., Any]) -> Case:
    t, d, v = size(draw), size(draw), size(draw, 19)
    labels = np.where(indices(draw, t, 4) == 0, -100, indices(draw, t, v)).astype(np.int32)
    bias = floats(draw, v) if draw(st.booleans()) else None
    return Case((floats(draw, t, d), floats(draw, v, d), labels, bias), op, weights=(1,))


@case
def cross_entropy(draw: st.DrawFn) -> Case:
    reduction = draw(st.sampled_from(["mean", "sum"]))
    softcap = draw(st.sampled_from([None, 1.5]))
    return labelled(draw, lambda *x: ops.cross_entropy(*x, reduction=reduction, softcap=softcap))


@case
def token_logprob(draw: st.DrawFn) -> Case:
    softcap = draw(st.sampled_from([None, 1.5]))
    return labelled(draw, lambda *x: ops.token_logprob(*x, softcap=softcap))


@case
def sum_(draw: st.DrawFn) -> Case:
    return Case((floats(draw, size(draw), size(draw)),), ops.sum)


BUILT = sorted(set(CASES) & set(_rs.op_names()))


def over_all_ops(test: Callable[..., None]) -> Callable[..., None]:
    """``test(case)`` with drawn cases of each op."""

    def run(op: str, data: st.DataObject) -> None:
        test(CASES[op](data.draw))

    run.__name__ = test.__name__
    return pytest.mark.parametrize("op", BUILT)(settings(max_examples=20)(given(data=st.data())(run)))


def weights_of(output: Array) -> Array:
    """Numbers that make a scalar of an output: its gradient is then a general one."""
    return np.random.default_rng(7).normal(size=output.shape).astype(output.dtype)


def native_value(case: Case, operands: list[Array | None]) -> Array:
    return case.call(*(None if x is None else native.array(x) for x in operands)).numpy()


def native_gradients(case: Case, operands: list[Array | None], weights: Array) -> list[Array]:
    values = [None if x is None else native.array(x) for x in operands]
    variables = [values[i] for i in case.variables()]
    _, grads = native.differentiate(lambda: ops.sum(ops.mul(case.call(*values), native.array(weights))), variables)
    return [np.zeros_like(x.numpy()) if g is None else g.numpy() for x, g in zip(variables, grads, strict=True)]


@over_all_ops
def test_a_gradient_does_not_depend_on_which_others_are_wanted(case: Case) -> None:
    """A tape lets go of what the wanted gradients do not need."""
    operands = case.cast(np.float64)
    weights = weights_of(native_value(case, operands))
    variables = case.variables()
    everything = dict(zip(variables, native_gradients(case, operands, weights), strict=True))
    for wanted in variables:
        others = (i for i in variables if i != wanted)
        (grad,) = native_gradients(replace(case, constant=(*case.constant, *others)), operands, weights)
        assert np.array_equal(grad, everything[wanted]), f"operand {wanted}"


def computed(case: Case, wanted: list[int], spares: _rs.Spares) -> list[bytes]:
    """An op's output and its gradients for the ``wanted`` operands, in float32, in the memory of ``spares``."""
    values = [None if x is None else native.array(x) for x in case.cast(np.float32)]
    outputs: list[native.Array] = []

    def loss() -> native.Array:
        outputs.append(case.call(*values))
        return ops.sum(ops.mul(outputs[0], native.array(weights_of(outputs[0].numpy()))))

    with native.reusing(spares):
        _, grads = native.differentiate(loss, [value for i in wanted if (value := values[i]) is not None])
    return [x.numpy().tobytes() for x in (*outputs, *grads) if x is not None]


@over_all_ops
def test_an_op_writes_the_whole_of_what_it_gives(case: Case) -> None:
    """Values take the memory of earlier ones as it is."""
    for wanted in ([], case.variables(), *([i] for i in case.variables())):
        assert computed(case, wanted, _rs.Spares.poisoned()) == computed(case, wanted, _rs.Spares()), wanted


def torch_gradients(case: Case, operands: list[Array | None], weights: Array) -> tuple[Array, list[Array]]:
    values = [None if x is None else torch.from_numpy(x.copy()) for x in operands]
    variables = [values[i].requires_grad_() for i in case.variables()]
    output = case.call(*values)
    grads = torch.autograd.grad((output * torch.from_numpy(weights)).sum(), variables, allow_unused=True)
    zeros = [np.zeros(x.shape) if g is None else g.numpy() for x, g in zip(variables, grads, strict=True)]
    return output.detach().numpy(), zeros


def assert_close(got: Array, expected: Array, bound: float, what: str = "") -> None:
    """Within ``bound`` of the larger of 1 and the largest magnitude: errors of a sum grow with its terms."""
    assert got.shape == expected.shape, what
    worst = float(np.abs(got.astype(np.float64) - expected).max(initial=0.0))
    assert worst <= bound * max(1.0, float(np.abs(expected).max(initial=0.0))), f"{what} {worst}"


def test_complete() -> None:
    names = set(_rs.op_names())
    documented = (ROOT / "ARCHITECTURE.md").read_text()
    assert set(CASES) == names
    assert set(torch_backend._OPS) == names
    for name in names:
        assert inspect.getdoc(getattr(ops, name)), name
        assert (ROOT / "rust" / "program" / "src" / "ops" / f"{name}.rs").is_file(), name
        assert f"`{name}`" in documented, name


@over_all_ops
def test_native_is_torch(case: Case) -> None:
    for dtype, bound in ((np.float64, 1e-12), (np.float32, 1e-5)):
        operands = case.cast(dtype)
        output = native_value(case, operands)
        weights = weights_of(output)
        expected, expected_grads = torch_gradients(case, operands, weights)
        assert_close(output, expected, bound, "output")
        grads = native_gradients(case, operands, weights)
        for i, got, grad in zip(case.variables(), grads, expected_grads, strict=True):
            assert_close(got, grad, bound, f"gradient of operand {i} in {dtype.__name__}")


@over_all_ops
def test_gradients_are_central_differences(case: Case) -> None:
    operands, step = case.cast(np.float64), 1e-5
    weights = weights_of(native_value(case, operands))
    grads = native_gradients(case, operands, weights)
    for i, grad in zip(case.variables(), grads, strict=True):
        numeric = np.zeros_like(grad)
        for at in np.ndindex(grad.shape):
            ends = []
            for h in (step, -step):
                moved = [x if x is None or j != i else x.copy() for j, x in enumerate(operands)]
                moved[i][at] += h
                ends.append((native_value(case, moved) * weights).sum())
            numeric[at] = (ends[0] - ends[1]) / (2 * step)
        assert_close(grad, numeric, 1e-6, f"operand {i}")


class Operands(Module):
    """The float operands as weights, so that a Program holds them."""

    def __init__(self, operands: list[Array | None]) -> None:
        for i, x in enumerate(operands):
            if x is not None and x.dtype.kind == "f":
                setattr(self, f"operand{i}", Parameter(shape=x.shape, data=_rs.Tensor.from_numpy(x)))


@over_all_ops
def test_recorded_is_eager(case: Case) -> None:
    operands = case.cast(np.float32)
    model = Operands(operands)

    def symbol(writer: record.Writer, i: int, x: Array | None) -> Any:
        if x is None:
            return None
        if x.dtype.kind == "i" or (x.ndim == 2 and i not in case.weights):
            width = x.shape[1] if x.ndim == 2 else None
            return writer.input(f"operand{i}", rows=f"rows{len(x)}", dtype=x.dtype.name, width=width)
        return getattr(model, f"operand{i}")

    writer = record.Writer(model)
    output = case.call(*(symbol(writer, i, x) for i, x in enumerate(operands)))
    if isinstance(output, native.Array):
        # Of weights alone: a constant of the Program, computed at once.
        assert np.array_equal(output.numpy(), native_value(case, operands))
        return
    writer.program.finish([output.number])
    given_inputs = {f"operand{i}": _rs.Tensor.from_numpy(x) for i, x in enumerate(operands) if x is not None}
    inputs = {name: x for name, x in given_inputs.items() if name in writer.program.inputs}
    streams = [(stream.name, stream.starts.tolist()) for stream in case.streams]
    (run,) = writer.program.run(inputs, streams)
    assert np.array_equal(run.numpy(), native_value(case, operands), equal_nan=True)


def test_a_weight_of_weights_is_a_constant_of_the_program() -> None:
    model, random = Module(), np.random.default_rng(0)
    model.a, model.b = (Parameter(shape=(3, 2), data=_rs.Tensor.from_numpy(random.normal(size=(3, 2)))) for _ in "ab")

    def run(x: Any) -> Any:
        return ops.linear(x, ops.mul(model.a, model.b))

    writer = record.Writer(model)
    output = run(writer.input("x", rows="tokens", dtype="float64", width=2))
    writer.program.finish([output.number])
    assert [op for op, _ in writer.program.nodes] == ["linear"]
    x = random.normal(size=(4, 2))
    (got,) = writer.program.run({"x": _rs.Tensor.from_numpy(x)}, [])
    assert np.array_equal(got.numpy(), run(native.array(x)).numpy())


def test_a_constant_norm_has_no_gradient() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4))
    weight, still = native.array(values), torch.from_numpy(values).requires_grad_()
    _, (grad,) = native.differentiate(lambda: ops.sum(ops.inverse_norm(weight, constant=True)), [weight])
    assert grad is None
    assert not ops.inverse_norm(still, constant=True).requires_grad


def dropped(x: Array, *, seed: int, step: int, site: str = "a", rate: float = 0.25) -> Array:
    value = native.array(x)
    outputs = []

    def loss() -> native.Array:
        outputs.append(ops.dropout(value, rate=rate, site=site))
        return ops.sum(ops.mul(outputs[0], outputs[0]))

    _, (grad,) = native.differentiate(loss, [value], randomness=(seed, step))
    output = outputs[0].numpy()
    # The same mask on the way back: d(Σy²)/dx = 2·y / (1 - rate).
    assert np.allclose(grad.numpy(), 2 * output / (1 - rate), rtol=1e-6)
    torch_outputs = []

    def torch_loss() -> torch.Tensor:
        torch_outputs.append(ops.dropout(torch.from_numpy(x), rate=rate, site=site))
        return ops.sum(torch_outputs[0])

    torch_backend.value_and_grad(torch_loss, Module(), randomness=(seed, step))
    assert np.array_equal(torch_outputs[0].numpy(), output)
    return output


def test_dropout_is_a_function_of_seed_step_and_site() -> None:
    x = np.ones((200, 50), np.float32)
    y = dropped(x, seed=1, step=2)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.015
    assert np.array_equal(y, dropped(x, seed=1, step=2))
    for other in ({"seed": 2, "step": 2}, {"seed": 1, "step": 3}, {"seed": 1, "step": 2, "site": "b"}):
        disagreement = (y != dropped(x, **other)).mean()
        assert abs(disagreement - 2 * 0.25 * 0.75) < 0.02


def weighted(q: Any, k: Any, v: Any, **options: Any) -> Any:
    """Attention of two heads, two keys' heads and packed sequences."""
    stream = Ragged.of("tokens", [q.shape[0]] if q.shape[0] < 9 else [5, q.shape[0] - 5])
    heads = {"heads": 1, "kv_heads": 1} if q.shape[1] == 1 else {"heads": 4, "kv_heads": 2}
    return ops.attention(q, k, v, queries=stream, keys=stream, scale=0.3, causal=True, **heads, **options)


def whole(values: list[int]) -> Any:
    return native.array(np.array(values, np.int32))


@pytest.mark.parametrize("more", [{}, {"window": 3}, {"softcap": 2.0}, {"prefix": 3}])
def test_attention_drops_weights_as_a_function_of_seed_step_and_site(more: dict[str, Any]) -> None:
    """The same values and gradients as torch, whose mask is made on its own; the gradient is that of differences."""
    draw = np.random.default_rng(0)
    shapes = [(21, 24), (21, 12), (21, 12)] + [(3, 12)] * 2 * ("prefix" in more)
    operands = [draw.normal(size=shape) for shape in shapes]
    weights = draw.normal(size=(21, 24))
    options = {key: value for key, value in more.items() if key != "prefix"} | {"dropout": 0.3}

    def call(q: Any, k: Any, v: Any, *prefix: Any, site: str = "a") -> Any:
        stream = Ragged.of("tokens", [5, 16])
        shape = {"heads": 4, "kv_heads": 2, "scale": 0.3, "causal": True}
        return ops.attention(q, k, v, None, *prefix, queries=stream, keys=stream, **shape, **options, site=site)

    def native_of(values: list[Any], seed: int, step: int, site: str = "a") -> tuple[float, Any, list[Any]]:
        arrays, outputs = [native.array(x) for x in values], []

        def loss() -> Any:
            outputs.append(call(*arrays, site=site))
            return ops.sum(ops.mul(outputs[0], native.array(weights.astype(values[0].dtype))))

        value, grads = native.differentiate(loss, arrays, randomness=(seed, step))
        return value.item(), outputs[0].numpy(), [grad.numpy() for grad in grads if grad is not None]

    value, output, grads = native_of(operands, 1, 2)
    assert np.array_equal(native_of(operands, 1, 2)[1], output)
    for other in ((2, 2, "a"), (1, 3, "a"), (1, 2, "b")):
        assert not np.allclose(native_of(operands, *other)[1], output)
    tensors = [torch.from_numpy(x).requires_grad_() for x in operands]
    holder = Module()
    for i, tensor in enumerate(tensors):
        setattr(holder, f"operand{i}", Parameter(shape=tuple(tensor.shape), data=tensor))
    theirs, found = torch_backend.value_and_grad(
        lambda: (call(*tensors) * torch.from_numpy(weights)).sum(), holder, randomness=(1, 2)
    )
    assert value == pytest.approx(theirs, rel=1e-12)
    for got, expected in zip(grads, found.values(), strict=True):
        assert_close(got, expected.numpy(), 1e-12)
    single = native_of([x.astype(np.float32) for x in operands], 1, 2)
    assert_close(single[1], output, 1e-5)
    step = 1e-6
    for i, at in ((0, (7, 3)), (1, (6, 2)), (2, (5, 0))):
        ends = []
        for h in (step, -step):
            moved = [x.copy() for x in operands]
            moved[i][at] += h
            ends.append(native_of(moved, 1, 2)[0])
        assert grads[i][at] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)
    # Without randomness nothing is dropped.
    assert not np.allclose(call(*(native.array(x) for x in operands)).numpy(), output)


@settings(max_examples=20)
@given(data=st.data())
def test_what_is_said_of_a_token_is_torch(data: st.DataObject) -> None:
    """Against f64 torch, whole numbers for operands so that ties are ties."""
    drawn = labelled(data.draw, ops.token_logprob)
    operands = [x if x is None or x.dtype.kind == "i" else np.rint(x) for x in drawn.operands]
    k = data.draw(st.integers(0, len(operands[1])))
    expected = ops.token_logprob(*(None if x is None else torch.from_numpy(x) for x in operands), top_k=k).numpy()
    for dtype, bound in ((np.float64, 1e-12), (np.float32, 1e-5)):
        cast = [x if x is None or x.dtype.kind == "i" else x.astype(dtype) for x in operands]
        values = [None if x is None else native.array(x) for x in cast]
        found = ops.token_logprob(*values, top_k=k).numpy()
        assert_close(found, expected, bound)
        assert np.array_equal(found[:, :1], ops.token_logprob(*values).numpy())
        assert np.array_equal(found[:, 3 : 4 + k], expected[:, 3 : 4 + k])


@pytest.mark.parametrize(
    ("call", "error", "names"),
    [
        (lambda a: ops.linear(a(2, 3), a(4, 5)), ShapeError, "linear"),
        (lambda a: ops.linear(a(2, 3), a(4, 3), a(5)), ShapeError, "bias"),
        (lambda a: ops.add(a(2, 3), a(3, 3)), ShapeError, "add"),
        (lambda a: ops.columns(a(2, 3), start=2, stop=4), ShapeError, "columns"),
        (lambda a: ops.embed(a(4, 2), native.array(np.array([0, 4], np.int32))), InputError, "4"),
        (lambda a: ops.rows(a(4, 2), native.array(np.array([-1], np.int32))), InputError, "-1"),
        (lambda a: ops.dropout(a(1, 1), rate=1.0, site="x"), InputError, "rate"),
        (lambda a: weighted(a(1, 1), a(1, 1), a(1, 1), dropout=1.0), InputError, "attention dropout is 1"),
        (lambda a: ops.cross_entropy(a(1, 1), a(2, 1), whole([0]), softcap=0.0), InputError, "softcap is 0"),
        (lambda a: ops.pool(a(3, 2), Ragged.of("tokens", [2, 2]), kind="mean"), ShapeError, "pool"),
        (lambda a: ops.rope(a(2, 6), native.array(np.zeros(2, np.int32)), a(3), head_dim=4), ShapeError, "rope"),
    ],
)
def test_bad_input_is_named(call: Callable[..., Any], error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        call(lambda *shape: native.array(np.ones(shape, np.float32)))
