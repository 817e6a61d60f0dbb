"""What training asks of a backend: parameters on a device, gradients and the step of the optimiser."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmrs import _rs
from lmrs.backend import native
from lmrs.backend.torch.dropout import RANDOMNESS
from lmrs.batch import Dtype
from lmrs.errors import InputError, ShapeError
from lmrs.nn.module import Module, Parameter

M = TypeVar("M", bound=Module)
Gradients = dict[str, Tensor]


def array(values: npt.NDArray[Any]) -> Tensor:
    """``values`` as a tensor where torch makes new ones: on the CPU; within :func:`value_and_grad` beside the model."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(torch.get_default_device())


def numpy(value: Tensor) -> npt.NDArray[Any]:
    """``value`` as a numpy array, off the graph and off the device; bfloat16, which numpy lacks, as float32."""
    wide = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
    return np.asarray(wide.cpu().numpy())


def updated(
    step: Callable[..., tuple[Any, tuple[Any, ...]]],
    parameter: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, ...] | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As :func:`lmrs.backend.native.updated`, on tensors, where they are."""
    with torch.no_grad():
        new, kept = step(parameter, gradient, *(moments or ()))
    return new.requires_grad_(parameter.requires_grad), kept


def loaded(tensor: Tensor, values: npt.NDArray[Any]) -> Tensor:
    """``values``, of any shape, on the device of ``tensor``."""
    return array(values).to(tensor.device)


def detached(value: Tensor) -> npt.NDArray[Any]:
    """The numbers of ``value``, which no gradient goes through."""
    return numpy(value)


def place(model: M, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> M:
    """``model`` with its parameters as torch tensors on ``device``; the trainable ones ask for gradients.

    Raises InputError if a parameter is not loaded.
    """

    def move(parameter: Parameter) -> Parameter:
        data = parameter.data
        if isinstance(data, _rs.Tensor):
            data = data.numpy()
        if data is None:
            raise InputError(f"a parameter {list(parameter.shape)} is not loaded")
        tensor = data.detach() if isinstance(data, Tensor) else array(data)
        moved = tensor.to(device=device, dtype=dtype, copy=True)
        return replace(parameter, data=moved.requires_grad_(parameter.trainable))

    return model.map_parameters(move)


def fetch(model: M) -> M:
    """The inverse of :func:`place`: ``model`` with parameters that are native float32 tensors, to save or record it."""

    def move(parameter: Parameter) -> Parameter:
        data = parameter.data
        return (
            replace(parameter, data=native.array(numpy(data.float())).tensor) if isinstance(data, Tensor) else parameter
        )

    return model.map_parameters(move)


def still() -> torch.no_grad:
    """As :func:`lmrs.backend.native.still`."""
    return torch.no_grad()


def value(loss: Callable[[], Tensor], model: Module) -> float:
    """``loss()``, of which no gradient will be asked, beside the parameters of ``model``."""
    where = next((parameter.data.device for parameter in model.named_parameters().values()), None)
    with torch.no_grad(), where or torch.get_default_device():
        return float(loss())


def reusing() -> AbstractContextManager[None]:
    """As :func:`lmrs.backend.native.reusing`; torch has an allocator of its own."""
    return nullcontext()


def value_and_grad(
    loss: Callable[[], Tensor],
    model: Module,
    *,
    randomness: tuple[int, int] | None = None,
    dtype: Dtype = "f32",
) -> tuple[float, Gradients]:
    """As :func:`lmrs.backend.native.value_and_grad`, by torch's autograd, for a ``model`` that :func:`place` made.

    With ``dtype`` ``bf16`` the loss is computed under ``torch.autocast``: products of matrices, those of attention
    among them, take operands rounded to bfloat16 and sum in float32; layer norms, softmax and the cross-entropy are in
    float32, and everything else in the wider of its operands' types. Weights stay what they are, float32, and are
    rounded where they are used, so gradients and the optimiser are float32. There is no scaling of the loss, which
    bfloat16, with the exponents of float32, does not need.
    """
    trainable = {path: parameter.data for path, parameter in model.named_parameters().items() if parameter.trainable}
    token = RANDOMNESS.set(randomness)
    try:
        where = next((tensor.device for tensor in trainable.values()), torch.get_default_device())
        rounded = dtype == "bf16"
        narrow: AbstractContextManager[Any] = (
            torch.autocast(torch.device(where).type, torch.bfloat16) if rounded else nullcontext()
        )
        with torch.enable_grad(), where, narrow:
            value = loss()
    finally:
        RANDOMNESS.reset(token)
    if value.numel() != 1:
        raise ShapeError(f"the loss has shape {list(value.shape)}, expected one element")
    grads: tuple[Tensor | None, ...] = (None,) * len(trainable)
    if value.requires_grad:
        grads = torch.autograd.grad(value, list(trainable.values()), allow_unused=True)
    found = {path: grad for path, grad in zip(trainable, grads, strict=True) if grad is not None}
    return float(value.detach()), found


def added(x: Tensor, y: Tensor) -> Tensor:
    """``x + y``."""
    return x + y


def norm(gradients: Sequence[Tensor]) -> float:
    """``√Σ g²`` over all elements of ``gradients``, summed in float64; not finite if one of them is not."""
    return math.sqrt(math.fsum(float(gradient.double().square().sum()) for gradient in gradients))


def adamw(
    parameter: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor] | None,
    *,
    step: int,
    scale: float,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As :func:`lmrs.backend.native.adamw`."""
    with torch.no_grad():
        gradient = scale * gradient
        mean, square = moments or (torch.zeros_like(parameter), torch.zeros_like(parameter))
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient.square()
        root = (square / (1 - beta2**step)).sqrt() + eps
        stepped = (1 - learning_rate * weight_decay) * parameter - learning_rate / (1 - beta1**step) * mean / root
    return stepped.requires_grad_(), (mean, square)


def like(tensor: Tensor, values: npt.NDArray[Any]) -> Tensor:
    """``values`` in place of ``tensor``, on its device. Raises ShapeError if they have another shape or dtype."""
    new = array(values)
    if new.shape != tensor.shape or new.dtype != tensor.dtype:
        raise ShapeError(f"{new.dtype} {list(new.shape)}, expected {tensor.dtype} {list(tensor.shape)}")
    return new.to(tensor.device).requires_grad_(tensor.requires_grad)
