"""The module tree: paths, ties, surgery; and the batch a model is called with."""

import numpy as np
import pytest

from lmrs import ops
from lmrs.backend import native
from lmrs.batch import Batch, Ragged
from lmrs.errors import ConfigError, InputError
from lmrs.initialise import initialise
from lmrs.models import gpt2, llama
from lmrs.nn.attention import Heads
from lmrs.nn.layers import Linear
from lmrs.nn.module import Module, entered
from lmrs.ops import Value


def small() -> gpt2.Model:
    config = gpt2.Config(vocabulary=11, width=8, layers=2, heads=2, context=6, inner=12)
    return initialise(gpt2.Model(config), seed=0)


class Doubled(Module):
    """Twice what another module gives."""

    def __init__(self, base: Module) -> None:
        self.base = base

    def forward(self, x: Value) -> Value:
        return ops.scale(self.base(x), by=2.0)


def test_canonical_paths() -> None:
    model = small()
    paths = [path for path, _ in model.named_modules()]
    assert paths[:4] == ["", "embed", "positions", "blocks.0"]
    attention = [f"blocks.0.attn.{name}" for name in "qkvo"]
    assert paths[4:][:9] == [
        "blocks.0.norm1",
        "blocks.0.attn",
        *attention,
        "blocks.0.norm2",
        "blocks.0.ff",
        "blocks.0.ff.up",
    ]
    assert paths[-2:] == ["norm", "head"]
    parameters = model.named_parameters()
    assert "embed.weight" in parameters
    assert "head.weight" not in parameters
    assert "blocks.1.ff.down.bias" in parameters


def test_constants_are_not_parameters() -> None:
    config = llama.Config(vocabulary=9, width=8, layers=1, heads=Heads(2, 1, 4), context=8, inner=6)
    model = llama.Model(config)
    frequencies = {path for path, _ in model.named_leaves().items()} - model.named_parameters().keys()
    assert frequencies == {"blocks.0.attn.rope.frequencies"}


def test_replace_shares_what_it_does_not_touch() -> None:
    model = small()
    seen: list[str] = []

    def double(path: str, module: Module) -> Module:
        seen.append(path)
        return Doubled(module)

    new = model.replace("*.attn.{q,v}", double)
    assert seen == [f"blocks.{i}.attn.{name}" for i in (0, 1) for name in "qv"]
    assert isinstance(new, gpt2.Model)
    assert new.blocks[0].attn.q.base is model.blocks[0].attn.q
    assert new.blocks[0].attn.k is model.blocks[0].attn.k
    assert new.blocks[1].ff is model.blocks[1].ff
    assert new.head.weight is new.embed.weight is model.embed.weight
    assert isinstance(model.blocks[0].attn.q, Linear)
    assert "blocks.0.attn.q.base.weight" in new.named_parameters()
    batch = Batch.of([[1, 2, 3]])
    assert not np.array_equal(new(batch).numpy(), model(batch).numpy())
    again = new.replace("blocks.0.attn.q.base", double)
    assert seen[-1] == "blocks.0.attn.q.base"
    assert isinstance(again.blocks[0].attn.q.base, Doubled)


def test_replace_inside_out() -> None:
    """A module is changed after its children, so a pattern may match both."""
    new = small().replace("blocks.0.ff{,.up}", lambda _path, module: Doubled(module))
    assert isinstance(new.blocks[0].ff, Doubled)
    assert isinstance(new.blocks[0].ff.base.up, Doubled)


@pytest.mark.parametrize("pattern", ["*.attn.query", "blocks.0.attn.", "", "blocks.0.att", "embed.weight"])
def test_replace_that_matches_nothing(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"no module matches .*blocks\.\*\.attn\.q"):
        small().replace(pattern, lambda _path, module: module)


@pytest.mark.parametrize("pattern", ["*.{q,v", "}q{", "{{q}", "a}"])
def test_replace_with_unbalanced_braces(pattern: str) -> None:
    with pytest.raises(ConfigError, match="braces"):
        small().replace(pattern, lambda _path, module: module)


def test_a_pattern_is_taken_literally_beside_its_signs() -> None:
    with pytest.raises(ConfigError, match="no module matches"):
        small().replace("blocks.(0|1).attn", lambda _path, module: module)
    assert small().replace("blocks.?.attn", lambda _path, module: module)


def test_frozen_keeps_numbers_and_ties() -> None:
    model = small()
    frozen = model.frozen()
    assert not any(parameter.trainable for parameter in frozen.named_parameters().values())
    assert all(parameter.trainable for parameter in model.named_parameters().values())
    assert frozen.head.weight is frozen.embed.weight
    assert frozen.embed.weight.data is model.embed.weight.data


def test_entered_is_the_stack_of_calls() -> None:
    stack: list[tuple[Module, ...]] = []

    class Probe(Module):
        def forward(self, x: Value) -> Value:
            stack.append(entered())
            return x

    probe = Probe()
    outer = Doubled(probe)
    outer(native.array(np.zeros((1, 1), np.float32)))
    assert stack == [(outer, probe)]
    assert entered() == ()
    with pytest.raises(InputError):
        outer(None)
    assert entered() == ()


def test_batch_packs() -> None:
    batch = Batch.of([[5, 6, 7], [8]], labels=[[6, 7, -100], [1]], select=[3])
    assert batch.ids.numpy().tolist() == [5, 6, 7, 8]
    assert batch.positions.numpy().tolist() == [0, 1, 2, 0]
    assert batch.segments.numpy().tolist() == [0, 0, 0, 0]
    assert batch.seqs.spans() == [(0, 3), (3, 4)]
    assert batch.labels.numpy().tolist() == [6, 7, -100, 1]
    assert batch.select.numpy().tolist() == [3]
    assert batch.ids.numpy().dtype == np.int32


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "there is no sequence"),
        ([[1], []], {}, "sequence 1 is empty"),
        ([[1, 2]], {"labels": [[1]]}, r"labels has lengths \[1\], the ids have \[2\]"),
        ([[1, 2]], {"segments": [[0, 0], [0]]}, r"segments has lengths \[2, 1\]"),
        ([[2**31]], {}, "ids holds 2147483648"),
        ([[-(2**31) - 1]], {}, "ids holds -2147483649"),
    ],
)
def test_batch_refuses(texts: list[list[int]], options: dict[str, list[list[int]]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Batch.of(texts, **options)


def test_a_symbolic_stream_has_no_spans() -> None:
    with pytest.raises(InputError, match="tokens is symbolic"):
        Ragged("tokens", None).spans()
