"""A T5 and an ELMo from scratch: by lmrs, and by transformers and plain torch from the same weights in the same order.

    python examples/pretraining_peers.py t5 wikitext.txt
    python examples/pretraining_peers.py elmo wikitext.txt --width 64

The peer gets the weights that lmrs starts from, the examples of every step, AdamW, clipping and the cosine, in float32.
Printed are how far the losses are apart and the held-out loss of each. The lmrs half is `lmrs pretrain` with the same
options, to the bit.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from lmrs import pretrain, train
from lmrs.models import save
from lmrs.train.order import Shuffled

LossOf = Callable[[Any, Sequence[int]], tuple[Tensor, int]]


def drawn(objective: Any, *, steps: int, batch_tokens: int, seed: int) -> Iterator[tuple[Any, list[int]]]:
    """The examples of each step, as `lmrs.train.fit` draws them, and the objective as it is in their epoch."""
    at = 0
    for _ in range(steps):
        epoch = at // len(objective)
        current = objective.in_epoch(epoch) if isinstance(objective, train.Dynamic) else objective
        chosen: list[int] = []
        room = batch_tokens
        while at < (epoch + 1) * len(objective):
            number = Shuffled(len(objective), seed, epoch)[at % len(objective)]
            room -= current.tokens(number)
            if chosen and room < 0:
                break
            chosen.append(number)
            at += 1
        yield current, chosen


def follow(
    peer: nn.Module,
    loss_of: LossOf,
    objective: Any,
    *,
    steps: int,
    batch_tokens: int,
    rule: Any,
    schedule: Any,
    seed: int,
) -> list[float]:
    """Train ``peer`` by torch's own optimiser and clipping; the mean loss of each step."""
    trained = [p for p in peer.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": rule.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=rule.learning_rate,
        betas=(rule.beta1, rule.beta2),
        eps=rule.eps,
    )
    losses = []
    for step, (current, chosen) in enumerate(drawn(objective, steps=steps, batch_tokens=batch_tokens, seed=seed)):
        total, terms = loss_of(current, chosen)
        optimiser.zero_grad()
        (total / terms).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rule.learning_rate * schedule(step, steps)
        optimiser.step()
        losses.append(float(total.detach()) / terms)
    return losses


@torch.no_grad()
def judged(loss_of: LossOf, objective: Any) -> float:
    """The mean loss over all examples as they are in epoch 0."""
    parts = [loss_of(objective, range(at, min(at + 32, len(objective)))) for at in range(0, len(objective), 32)]
    return sum(float(total) for total, _ in parts) / sum(terms for _, terms in parts)


def t5(model: Any) -> tuple[nn.Module, LossOf]:
    """T5 of transformers with the weights of ``model``."""
    with tempfile.TemporaryDirectory() as directory:
        save(model, directory)
        peer = transformers.T5ForConditionalGeneration.from_pretrained(directory, dropout_rate=0.0).train()

    def filled(rows: list[list[int]], value: int) -> Tensor:
        return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)

    def loss_of(objective: Any, chosen: Sequence[int]) -> tuple[Tensor, int]:
        pairs = [objective[number] for number in chosen]
        inputs = [[int(i) for i in pair.inputs] for pair in pairs]
        labels = filled([[int(i) for i in pair.targets] for pair in pairs], -100)
        seen = filled([[1] * len(row) for row in inputs], 0)
        logits = peer(input_ids=filled(inputs, 0), attention_mask=seen, labels=labels).logits
        total = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
        return total, int((labels != -100).sum())

    return peer, loss_of


class ClippedLSTM(nn.Module):
    """ELMo's LSTM word by word: torch's own has projections, but clips neither cells nor outputs."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.input = nn.Linear(config.width, 4 * config.cells)
        self.state = nn.Linear(config.width, 4 * config.cells, bias=False)
        self.projection = nn.Linear(config.cells, config.width, bias=False)

    def forward(self, x: Tensor, carried: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``[runs, words, width]`` to the same, and the hidden and cell behind the last word."""
        config = self.config
        hidden, cell = carried or (x.new_zeros(len(x), config.width), x.new_zeros(len(x), config.cells))
        outputs = []
        for read in self.input(x).unbind(1):
            i, f, g, o = (read + self.state(hidden)).chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            cell = cell.clamp(-config.cell_clip, config.cell_clip)
            hidden = self.projection(o.sigmoid() * cell.tanh()).clamp(-config.output_clip, config.output_clip)
            outputs.append(hidden)
        return torch.stack(outputs, 1), (hidden, cell)


class BiLM(nn.Module):
    """The language model of ELMo in plain torch."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        filters = sum(count for _, count in config.filters)
        self.letters = nn.Embedding(261, config.letter_width)
        self.convolutions = nn.ModuleList(nn.Conv1d(config.letter_width, n, size) for size, n in config.filters)
        self.highways = nn.ModuleList(nn.Linear(filters, 2 * filters) for _ in range(config.highways))
        self.project = nn.Linear(filters, config.width)
        self.lstms = nn.ModuleDict(
            {
                direction: nn.ModuleList(ClippedLSTM(config) for _ in range(config.layers))
                for direction in ("forwards", "backwards")
            }
        )
        self.head = nn.Linear(config.width, config.vocabulary)

    def words(self, characters: Tensor) -> Tensor:
        """``[runs, words, letters]`` to ``[runs, words, width]``."""
        x = self.letters(characters.flatten(0, 1)).transpose(1, 2)
        x = torch.cat([convolution(x).amax(-1).relu() for convolution in self.convolutions], -1)
        for highway in self.highways:
            new, gate = highway(x).chunk(2, -1)
            x = torch.lerp(x, new.relu(), gate.sigmoid())
        projected: Tensor = self.project(x)
        return projected.unflatten(0, characters.shape[:2])

    def loss(self, characters: Tensor, ids: Tensor, truncate: int) -> tuple[Tensor, int]:
        """Both cross-entropies of runs of one length, summed; state goes on from piece to piece, no gradient does."""
        x, total, terms = self.words(characters), torch.zeros(()), 0
        for direction in ("forwards", "backwards"):
            read, wanted = (x, ids) if direction == "forwards" else (x.flip(1), ids.flip(1))
            # Backwards, too, pieces are counted from the first word of the text.
            length = ids.shape[1]
            edges = sorted({0, length, *range(0, length, truncate)})
            if direction == "backwards":
                edges = [length - edge for edge in reversed(edges)]
            states: list[Any] = [None] * self.config.layers
            for start, stop in zip(edges[:-1], edges[1:], strict=True):
                y = read[:, start:stop]
                for number, lstm in enumerate(self.lstms[direction]):  # type: ignore[arg-type]
                    out, state = lstm(y, states[number])
                    states[number] = tuple(part.detach() for part in state)
                    y = out + y if self.config.skip and number else out
                last = min(stop, length - 1)
                logits = self.head(y[:, : last - start])
                labels = wanted[:, start + 1 : last + 1]
                total = total + nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
                terms += labels.numel()
        return total, terms


def elmo(model: Any) -> tuple[nn.Module, LossOf]:
    """A plain biLM with the weights of ``model``."""
    from lmrs.models.elmo import spell

    config, peer = model.config, BiLM(model.config)
    ours = {path: torch.from_numpy(p.data.numpy().copy()) for path, p in model.named_parameters().items()}
    with torch.no_grad():
        peer.letters.weight.copy_(ours["embed.weight"])
        for n, (convolution, (size, _)) in enumerate(zip(peer.convolutions, config.filters, strict=True)):
            weight = ours[f"convolutions.{n}.weight"].unflatten(1, (size, config.letter_width)).transpose(1, 2)
            convolution.weight.copy_(weight)  # type: ignore[operator,union-attr]
            convolution.bias.copy_(ours[f"convolutions.{n}.bias"])  # type: ignore[operator,union-attr]
        for n, highway in enumerate(peer.highways):
            for kind in ("weight", "bias"):
                parts = [ours[f"highways.{n}.{name}.{kind}"] for name in ("transform", "gate")]
                getattr(highway, kind).copy_(torch.cat(parts))
        for name, module in (("project", peer.project), ("head", peer.head)):
            module.weight.copy_(ours[f"{name}.weight"])
            module.bias.copy_(ours[f"{name}.bias"])
        for direction, lstms in peer.lstms.items():
            for n, lstm in enumerate(lstms):  # type: ignore[arg-type]
                for name, weight in (("input", lstm.input.weight), ("state", lstm.state.weight)):
                    weight.copy_(ours[f"{direction}.{n}.{name}"])
                lstm.input.bias.copy_(ours[f"{direction}.{n}.bias"])
                lstm.projection.weight.copy_(ours[f"{direction}.{n}.projection"])

    def loss_of(objective: Any, chosen: Sequence[int]) -> tuple[Tensor, int]:
        lengths: defaultdict[int, list[int]] = defaultdict(list)
        for number in chosen:
            lengths[len(objective.runs[number])].append(number)
        total, terms = torch.zeros(()), 0
        for numbers in lengths.values():
            spelt = [[spell(word, config.letters) for word in objective.runs[number]] for number in numbers]
            ids = torch.tensor([list(objective.ids[number]) for number in numbers])
            part, count = peer.loss(torch.tensor(spelt), ids, objective.truncate)
            total, terms = total + part, terms + count
        return total, terms

    return peer, loss_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=["t5", "elmo"])
    parser.add_argument("data", type=Path)
    for name, value in (("layers", 2), ("width", 128), ("context", 128), ("vocab-size", 4096)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=2e-3)
    options = parser.parse_args()
    size = pretrain.Size(
        layers=options.layers, width=options.width, context=options.context, vocabulary=options.vocab_size
    )
    task = pretrain.task(options.family, *pretrain.documents(options.data), size=size)
    peer, loss_of = {"t5": t5, "elmo": elmo}[options.family](task.model)
    settings: dict[str, Any] = {"steps": options.steps, "batch_tokens": options.batch_tokens, "seed": 0}
    rule = train.AdamW(learning_rate=options.rate, beta2=0.98, weight_decay=0.01)
    schedule = train.Cosine(warmup=options.steps // 20, floor=0.1)
    before = pretrain.mean_loss(task.held_out)
    start = time.perf_counter()
    ours = train.fit(task.objective, **settings, optimiser=rule, schedule=schedule).losses
    middle = time.perf_counter()
    theirs = follow(peer, loss_of, task.objective, **settings, rule=rule, schedule=schedule)
    end = time.perf_counter()
    apart = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    count = sum(parameter.size for parameter in task.model.named_parameters().values())
    print(f"{options.family}: {count:,} parameters, {options.steps} steps of {options.batch_tokens} tokens")
    print(f"losses apart: {max(apart[:20]):.1e} in the first 20 steps, {max(apart):.1e} in all")
    print(f"held out before: {before:.4f}")
    print(f"held out: {pretrain.mean_loss(task.held_out):.4f} (lmrs), {judged(loss_of, task.held_out):.4f} (peer)")
    print(f"seconds: {middle - start:.0f} (lmrs), {end - middle:.0f} (peer)")


if __name__ == "__main__":
    main()
