"""Several processes that follow one gradient: torch.distributed, as ``torchrun`` starts it.

Each process holds the whole model and takes its share of the examples of every batch, each ``count``-th. Losses, terms
and gradients are summed over all of them, so that every process makes the same step, which is that of one process with
the same batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, distributed

from lmrs.nn.module import Module


def workers() -> tuple[int, int]:
    """``(rank, count)`` of this process; ``(0, 1)`` where neither ``torchrun`` nor a process group started it."""
    if not distributed.is_available():
        return 0, 1
    if not distributed.is_initialized():
        if not distributed.is_torchelastic_launched():
            return 0, 1
        # gloo for tensors on the CPU, NCCL for those on a GPU.
        distributed.init_process_group()
    return distributed.get_rank(), distributed.get_world_size()


def summed(
    total: float, terms: int, gradients: Mapping[str, Tensor], model: Module
) -> tuple[float, int, dict[str, Tensor]]:
    """A loss, its number of terms and its gradients, each summed over the processes.

    A parameter that the loss of no process depends on has no gradient.
    """
    trained = {path: p.data for path, p in model.named_parameters().items() if p.trainable}
    numbers = torch.tensor([total, terms, *(path in gradients for path in trained)], dtype=torch.float64)
    if trained:
        numbers = numbers.to(next(iter(trained.values())).device)
    distributed.all_reduce(numbers)
    loss, count, *present = numbers.tolist()
    whole: dict[str, Tensor] = {}
    under_way = []
    for (path, weight), there in zip(trained.items(), present, strict=True):
        if there:
            mine = gradients.get(path)
            whole[path] = torch.zeros_like(weight) if mine is None else mine.contiguous()
            under_way.append(distributed.all_reduce(whole[path], async_op=True))
    for work in under_way:
        work.wait()
    return loss, int(count), whole
