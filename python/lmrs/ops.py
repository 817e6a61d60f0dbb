"""The ops: the small, closed set of functions that every model is written in.

Activations are float arrays of rank 2, ``[rows, width]``; ids, labels, positions and row indices are int32 arrays of
rank 1. There is no batch axis and no padding: sequences lie one after another and a :class:`~lmrs.batch.Ragged` says
where each starts. An op does nothing itself. It hands its name, inputs and attributes to the interpreter of the first
input whose type is registered: a native array runs a Rust kernel, a torch tensor runs torch, a recorded value is
written down. An op on Parameters alone runs at once in the backend that holds them, also while recording: a weight that
is computed from others is a constant of the Program. The error of every op is :class:`~lmrs.errors.ShapeError` when
shapes do not fit, which only the interpreter can judge, and :class:`~lmrs.errors.InputError` when no input carries a
value.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lmrs.errors import InputError

if TYPE_CHECKING:
    from lmrs.batch import Ragged

Value: TypeAlias = Any
"""What an interpreter computes with: ``backend.native.Array``, ``torch.Tensor`` or ``backend.record.Recorded``."""

Operand: TypeAlias = Any
"""A Value, or a Parameter whose data the interpreter understands."""

Attributes: TypeAlias = dict[str, Any]
Interpreter: TypeAlias = Callable[[str, "tuple[Operand | None, ...]", Attributes, "tuple[Ragged, ...]"], Value]

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh", "sigmoid"]
Pooling = Literal["mean", "first", "last", "max"]
Reduction = Literal["mean", "sum"]

_INTERPRETERS: dict[type, Interpreter] = {}
_SYMBOLIC: dict[type, Interpreter] = {}
_OF_WEIGHTS: dict[type, Interpreter] = {}


def register(value_type: type, apply: Interpreter) -> None:
    """Let ``apply(name, inputs, attributes, streams)`` run the ops whose values are of ``value_type``."""
    _INTERPRETERS[value_type] = apply


def register_symbolic(value_type: type, apply: Interpreter) -> None:
    """The same for a type that stands for values yet unknown: such an input decides, whatever the others are."""
    _SYMBOLIC[value_type] = apply


def register_weights(data_type: type, apply: Interpreter) -> None:
    """Let ``apply`` run the ops all of whose inputs are Parameters, with data of ``data_type``."""
    _OF_WEIGHTS[data_type] = apply


def _run(name: str, *inputs: "Operand | None", streams: "tuple[Ragged, ...]" = (), **attributes: Any) -> Value:
    for interpreters in (_SYMBOLIC, _INTERPRETERS):
        for operand in inputs:
            for kind in type(operand).__mro__:
                if kind in interpreters:
                    return interpreters[kind](name, inputs, attributes, streams)
    for operand in inputs:
        for kind in type(getattr(operand, "data", None)).__mro__:
            if kind in _OF_WEIGHTS:
                return _OF_WEIGHTS[kind](name, inputs, attributes, streams)
    given = ", ".join(type(operand).__name__ for operand in inputs)
    raise InputError(f"{name}: no input is a value of a loaded backend (given: {given})")


def embed(table: Operand, ids: Value) -> Value:
    """Rows of ``table [V, d]`` chosen by ``ids [T]``: ``y[t] = table[ids[t]]``, ``[T, d]``.

    Raises InputError if an id is not in ``0 … V-1``.
    """
    return _run("embed", table, ids)


def linear(x: Value, weight: Operand, bias: Operand | None = None) -> Value:
    """``y = x·Wᵀ + b`` for ``x [T, i]``, ``weight [o, i]``, ``bias [o]``; ``[T, o]``."""
    return _run("linear", x, weight, bias)


def low_rank(base: Value, x: Value, a: Operand, b: Operand, *, scale: float) -> Value:
    """``y = base + scale·(x·Aᵀ)·Bᵀ`` for ``base [T, o]``, ``x [T, i]``, ``a [r, i]``, ``b [o, r]``; ``[T, o]``.

    The low-rank update of LoRA (Hu et al. 2021, eq. 3), with ``scale = alpha / rank``.
    """
    return _run("low_rank", base, x, a, b, scale=scale)


def layer_norm(x: Value, weight: Operand, bias: Operand | None = None, *, eps: float) -> Value:
    """``y = (x - mean(x)) / sqrt(var(x) + eps) · w + b`` over the width of ``x [T, d]`` (Ba et al. 2016)."""
    return _run("layer_norm", x, weight, bias, eps=eps)


def rms_norm(x: Value, weight: Operand, *, eps: float) -> Value:
    """``y = x / sqrt(mean(x²) + eps) · w`` (Zhang & Sennrich 2019).

    ``weight [g]``, where ``g`` divides the width of ``x [T, d]``: each run of ``g`` columns is normalised by itself, so
    one op serves the norm of a residual stream (``g = d``) and that of every head of a query (``g = head_dim``).
    """
    return _run("rms_norm", x, weight, eps=eps)


def rope(x: Value, positions: Value, frequencies: Operand, *, head_dim: int, factor: float = 1.0) -> Value:
    """Rotary position embedding (Su et al. 2021) of ``x [T, heads·head_dim]`` at ``positions [T]``.

    ``frequencies [r]`` turns the first ``2r`` columns of each head; column ``j < r`` is paired with column ``j + r``
    (the rotate-half layout): with ``θ = position·frequencies[j]``,
    ``y[j] = factor·(x[j]·cos θ - x[j+r]·sin θ)`` and ``y[j+r] = factor·(x[j+r]·cos θ + x[j]·sin θ)``.
    The remaining columns pass through.
    """
    return _run("rope", x, positions, frequencies, head_dim=head_dim, factor=factor)


def attention(
    q: Value,
    k: Value,
    v: Value,
    table: Operand | None = None,
    prefix_k: Operand | None = None,
    prefix_v: Operand | None = None,
    *,
    queries: "Ragged",
    keys: "Ragged",
    heads: int,
    kv_heads: int,
    scale: float,
    causal: bool,
    window: int | None = None,
    softcap: float | None = None,
    relative: dict[str, Any] | None = None,
    alibi: Sequence[float] | None = None,
    cache: str | None = None,
    dropout: float = 0.0,
    site: str = "",
) -> Value:
    """``softmax(scale·q·kᵀ + bias)·v`` for each head and sequence; ``[T, heads·head_dim]``.

    ``q [T, heads·head_dim]`` is split by ``queries``, ``k`` and ``v [S, kv_heads·head_dim]`` by ``keys``; query head
    ``h`` reads key head ``h·kv_heads // heads`` (Ainslie et al. 2023). With ``c`` keys already in the slot ``cache``,
    query ``i`` of a sequence is number ``c + i`` and, when ``causal``, sees keys ``0 … c+i``; with ``window`` only
    those less than so far from its own number, on either side if not causal. ``softcap`` replaces a score ``s`` by
    ``softcap·tanh(s / softcap)``.

    ``table [buckets, heads]`` with ``relative = {"buckets", "max_distance", "bidirectional"}`` adds
    ``table[bucket(j - i), h]`` to the score of key ``j`` for query ``i`` (Raffel et al. 2020, §2.1).
    ``alibi``, a slope for each head, takes ``alibi[h]·|j - i|`` from it (Press et al. 2022).
    ``prefix_k``, ``prefix_v [p, kv_heads·head_dim]`` come before the keys of every sequence and are seen by every
    query, without bias (Li & Liang 2021). In training, see :func:`dropout`, a weight is left out with probability
    ``dropout`` after the softmax, and the others are divided by ``1 - dropout``; ``site`` names the place.
    """
    return _run(
        "attention",
        q,
        k,
        v,
        table,
        prefix_k,
        prefix_v,
        streams=(queries, keys),
        heads=heads,
        kv_heads=kv_heads,
        scale=scale,
        causal=causal,
        window=window,
        softcap=softcap,
        relative=relative,
        alibi=None if alibi is None else list(alibi),
        cache=cache,
        **({"dropout": dropout, "site": site} if dropout else {}),
    )


def activation(x: Value, *, kind: Activation) -> Value:
    """``y = kind(x)`` elementwise.

    ``gelu`` is ``x·Φ(x)`` by the error function, ``gelu_tanh`` its tanh form (Hendrycks & Gimpel 2016), ``quick_gelu``
    ``x·σ(1.702·x)``, ``silu`` ``x·σ(x)``.
    """
    return _run("activation", x, kind=kind)


def gated(gate: Value, up: Value, *, kind: Activation) -> Value:
    """``y = kind(gate)·up`` elementwise, both ``[T, d]`` (Shazeer 2020)."""
    return _run("gated", gate, up, kind=kind)


def add(x: Value, y: Operand) -> Value:
    """``x + y`` for ``x [T, d]`` and ``y [T, d]``, ``[1, d]`` or ``[d]``."""
    return _run("add", x, y)


def mul(x: Value, y: Operand) -> Value:
    """``x·y`` elementwise for ``x [T, d]`` and ``y [T, d]``, ``[1, d]`` or ``[d]``."""
    return _run("mul", x, y)


def scale(x: Value, *, by: float) -> Value:
    """``by·x``."""
    return _run("scale", x, by=by)


def concat(*values: Value) -> Value:
    """The values ``[T, d₁]``, ``[T, d₂]``, … side by side: ``[T, d₁ + d₂ + …]``."""
    return _run("concat", *values)


def stack(*values: Operand) -> Value:
    """The weights ``[m, d]``, ``[n, d]``, … one under another: ``[m + n + …, d]``."""
    return _run("stack", *values)


def transpose(x: Operand) -> Value:
    """``xᵀ [n, m]`` of a weight ``x [m, n]``."""
    return _run("transpose", x)


def kron(a: Operand, b: Operand) -> Value:
    """The Kronecker product ``y[i·p + k, j·q + l] = a[i, j]·b[k, l]`` of weights ``[m, n]``, ``[p, q]``; ``[mp, nq]``.

    Compacter (Karimi Mahabadi et al. 2021, eq. 4) and LoKr (Yeh et al. 2023) build weights so.
    """
    return _run("kron", a, b)


def inverse_norm(weight: Operand, *, constant: bool = False) -> Value:
    """``y[0, j] = 1 / ‖w_j‖₂`` of each row of ``weight [o, i]``; ``[1, o]``. ``constant``: no gradient goes through.

    The normalisation of DoRA (Liu et al. 2024, eq. 5), whose §4.3 takes the norm for a constant.
    """
    return _run("inverse_norm", weight, constant=constant)


def columns(x: Value, *, start: int, stop: int) -> Value:
    """Columns ``start … stop-1`` of ``x [T, d]``."""
    return _run("columns", x, start=start, stop=stop)


def rows(x: Value, index: Value) -> Value:
    """``y[n] = x[index[n]]`` for ``x [T, d]``, ``index [N]``; ``[N, d]``. Raises InputError if one is out of range."""
    return _run("rows", x, index)


def pool(x: Value, sequences: "Ragged", *, kind: Pooling) -> Value:
    """One row a sequence: the mean, first, last or columnwise largest row of ``x [T, d]``; ``[sequences, d]``."""
    return _run("pool", x, streams=(sequences,), kind=kind)


def lstm(
    x: Value,
    input_weight: Operand,
    state_weight: Operand,
    sequences: "Ragged",
    *,
    bias: Operand | None = None,
    projection: Operand | None = None,
    hidden: Value | None = None,
    cell: Value | None = None,
    reverse: bool = False,
    cell_clip: float | None = None,
    output_clip: float | None = None,
    memory: bool = False,
) -> Value:
    """A long short-term memory over each sequence of ``x [T, i]``, from its last row to its first if ``reverse``.

    ``i, f, g, o = x·Wxᵀ + h·Whᵀ + b``; ``c ← σ(f)·c + σ(i)·tanh(g)``, cut to ``±cell_clip``;
    ``h ← (σ(o)·tanh(c))·Pᵀ``, cut to ``±output_clip`` (Sak et al. 2014; the LSTM of ELMo). ``input_weight [4·c, i]``,
    ``state_weight [4·c, p]``, ``bias [4·c]``, ``projection [p, c]`` (without it ``p = c``). Sequences start from
    ``hidden [sequences, p]`` and ``cell [sequences, c]``, 0 by default. ``[T, p]``, with ``memory`` ``[T, p + c]``:
    the cells beside the outputs, from which a text can be carried on. A value that was cut has no gradient.
    """
    return _run(
        "lstm",
        *(x, input_weight, state_weight, bias, projection, hidden, cell),
        streams=(sequences,),
        reverse=reverse,
        cell_clip=cell_clip,
        output_clip=output_clip,
        memory=memory,
    )


def char_conv(x: Value, weight: Operand, sequences: "Ragged", bias: Operand | None = None) -> Value:
    """``y[s, o] = b[o] + max_i Σ_{j<w} x[i + j]·W[o, j]`` over the windows of each sequence; ``[sequences, o]``.

    ``x [N, d]`` holds the embedded characters of one word after another, ``weight [o, w·d]`` the filters, row ``j`` of
    a window before row ``j + 1`` (Kim et al. 2016). A word shorter than ``w`` is filled up with zeros.
    """
    return _run("char_conv", x, weight, bias, streams=(sequences,))


def dropout(x: Value, *, rate: float, site: str) -> Value:
    """In training, zero an element with probability ``rate`` and divide the others by ``1 - rate``; else nothing.

    Training is where a step was given its randomness. ``site`` names the place in the model, so that two places draw
    different masks (Srivastava et al. 2014).
    """
    return _run("dropout", x, rate=rate, site=site)


def cross_entropy(
    x: Value,
    weight: Operand,
    labels: Value,
    bias: Operand | None = None,
    *,
    reduction: Reduction = "mean",
    ignore: int = -100,
    softcap: float | None = None,
) -> Value:
    """``Σ_t -log softmax(x_t·Wᵀ + b)[labels_t]`` over rows whose label is not ``ignore``; ``[1, 1]``, in nats.

    ``x [T, d]``, ``weight [V, d]``, ``labels [T]``, ``bias [V]``. ``mean`` divides by the number of rows that count,
    and is 0 when there is none. With ``softcap`` a logit ``z`` is ``softcap·tanh(z / softcap)``. The logits ``[T, V]``
    are never stored by the native interpreter.
    """
    return _run("cross_entropy", x, weight, labels, bias, reduction=reduction, ignore=ignore, **_capped(softcap))


def token_logprob(
    x: Value,
    weight: Operand,
    labels: Value,
    bias: Operand | None = None,
    *,
    top_k: int | None = None,
    softcap: float | None = None,
) -> Value:
    """``log softmax(x_t·Wᵀ + b)[labels_t]`` in nats, ``[T, 1]``; 0 where ``labels_t < 0``. The rest as cross_entropy.

    With ``top_k`` the output is ``[T, 4 + 2·top_k]`` and has no gradient: that; ``log Σ exp(logit)``; the entropy
    ``−Σ p·log p``; the rank of the label (1: the likeliest, of equals the smaller id first); the ids of the ``top_k``
    likeliest tokens (-1 where the label is negative); and their log-probabilities. Raises InputError if ``top_k`` is
    more than the vocabulary.
    """
    return _run("token_logprob", x, weight, labels, bias, top_k=top_k, **_capped(softcap))


def _capped(softcap: float | None) -> Attributes:
    """An attribute that few models have is said by those alone."""
    return {} if softcap is None else {"softcap": softcap}


def sum(x: Value) -> Value:
    """The sum of all elements, ``[1, 1]``."""
    return _run("sum", x)
