"""The LSTM as its equation, one step of time after another for all sequences that still run."""

import torch
from torch import Tensor
from torch.nn import functional

from lmrs.batch import Ragged
from lmrs.errors import ShapeError


def lstm(
    x: Tensor,
    input_weight: Tensor,
    state_weight: Tensor,
    bias: Tensor | None,
    projection: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    sequences: Ragged,
    *,
    reverse: bool,
    cell_clip: float | None,
    output_clip: float | None,
    memory: bool,
) -> Tensor:
    spans = sequences.spans()
    longest = sorted(range(len(spans)), key=lambda s: spans[s][0] - spans[s][1])
    h = x.new_zeros(len(spans), state_weight.shape[1]) if hidden is None else hidden
    c = x.new_zeros(len(spans), len(input_weight) // 4) if cell is None else cell
    if len(h) != len(spans) or len(c) != len(spans):
        raise ShapeError(f"lstm: states of {len(h)} and {len(c)} sequences, expected {len(spans)}")
    h, c = h[longest], c[longest]
    entering = functional.linear(x, input_weight, bias)
    outputs, order = [x.new_zeros(0, h.shape[1] + (c.shape[1] if memory else 0))], []
    for t in range(max((stop - start for start, stop in spans), default=0)):
        rows = [
            stop - 1 - t if reverse else start + t for start, stop in (spans[s] for s in longest) if stop - start > t
        ]
        n = len(rows)
        i, f, g, o = (entering[rows] + functional.linear(h[:n], state_weight)).chunk(4, -1)
        c = _cut(f.sigmoid() * c[:n] + i.sigmoid() * g.tanh(), cell_clip)
        h = o.sigmoid() * c.tanh()
        h = _cut(h if projection is None else functional.linear(h, projection), output_clip)
        outputs.append(torch.cat([h, c], -1) if memory else h)
        order += rows
    return torch.cat(outputs)[torch.tensor(order, dtype=torch.long, device=x.device).argsort()]


def _cut(x: Tensor, clip: float | None) -> Tensor:
    return x if clip is None else x.clamp(-clip, clip)
