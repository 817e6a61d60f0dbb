"""From nothing: the same losses as transformers trains to, one command for each paradigm, and shards of token ids."""

import json
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import lmrs
from lmrs import models, pretrain, train
from lmrs.cli import main
from lmrs.data import Shards, pack, texts_of
from lmrs.demo import texts
from lmrs.errors import FormatError, InputError, MissingFileError
from lmrs.models import bert, elmo, gpt2
from lmrs.tokenizer import Tokenizer
from lmrs.train.documents import Runs
from lmrs.train.mlm import Marks
from lmrs.train.order import Shuffled

VOCABULARY, STEPS, CONTEXT = 300, 20, 24
MARKS = Marks(mask=2, cls=0, sep=1)


def ids() -> list[int]:
    """Text, as bytes: something that can be learnt."""
    return [5 + byte for byte in texts.shakespeare().train[:6000].encode()]


def made(family: str, path: Path) -> Any:
    page: Any = {"gpt2": gpt2, "bert": bert}[family]
    config = page.Config(vocabulary=VOCABULARY, width=32, layers=2, heads=2, context=CONTEXT, inner=64)
    model = models.initialise(page.Model(config), seed=5)
    models.save(model, path)
    return model


def objective(family: str, model: Any) -> Any:
    if family == "gpt2":
        return train.clm(model, [ids()], context=CONTEXT)
    return train.mlm(model, [ids()], context=CONTEXT, marks=MARKS)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_the_first_losses_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    """The same weights, examples in the same order, AdamW, clipping and cosine, in float32: 20 losses within 1e-4."""
    model = made(family, tmp_path)
    rule = train.AdamW(learning_rate=3e-3, beta2=0.98, weight_decay=0.1)
    schedule, batch = train.Cosine(warmup=5), 4
    ours = train.fit(
        objective(family, model),
        steps=STEPS,
        batch_tokens=batch * CONTEXT,
        optimiser=rule,
        schedule=schedule,
        seed=3,
    )
    kind = {"gpt2": transformers.GPT2LMHeadModel, "bert": transformers.BertForMaskedLM}[family]
    dropped = {"gpt2": ["resid_pdrop", "embd_pdrop", "attn_pdrop"]}.get(
        family, ["hidden_dropout_prob", "attention_probs_dropout_prob"]
    )
    peer = kind.from_pretrained(tmp_path, **dict.fromkeys(dropped, 0.0)).train()
    decayed = [p for p in peer.parameters() if p.ndim > 1]
    rest = [p for p in peer.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.98), eps=1e-8)
    examples = objective(family, model)
    # One step takes what fits into its tokens, in the order of `Shuffled`.
    at, theirs = 0, []
    for step in range(STEPS):
        chosen, room = [], batch * CONTEXT
        while True:
            epoch, index = divmod(at, len(examples))
            number = Shuffled(len(examples), 3, epoch)[index]
            current = examples.in_epoch(epoch) if family == "bert" else examples
            room -= current.tokens(number)
            if chosen and (room < 0 or index == 0):
                break
            chosen.append(current[number] if family == "bert" else current.examples[number])
            at += 1
        total = sum(sum(label >= 0 for label in example.labels) for example in chosen)
        loss = torch.zeros(())
        for example in chosen:
            logits = peer(torch.tensor([list(example.ids)])).logits[0]
            loss = loss + torch.nn.functional.cross_entropy(
                logits, torch.tensor(list(example.labels)), ignore_index=-100, reduction="sum"
            )
        loss = loss / total
        theirs.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * schedule(step, STEPS)
        optimiser.step()
    assert theirs[-1] < theirs[0] - 0.5
    assert np.abs(np.array(theirs) - ours.losses).max() <= 1e-4


def command(*arguments: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5", "elmo"])
def test_one_command_from_scratch(family: str, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(texts.shakespeare().train[:30_000])
    small = ["--layers", "1", "--width", "32", "--context", "32", "--vocab-size", "400", "--steps", "25"]
    out, again = tmp_path / "model", tmp_path / "again"
    base = ["pretrain", "--family", family, "--data", file, *small, "--batch-tokens", "256", "--rate", "0.01", "--json"]
    told = command(*base, "-o", out, "--csv", tmp_path / "steps.csv")
    assert told["held_out"] < told["held_out_before"] - 0.3
    assert told["perplexity"] == pytest.approx(np.exp(told["held_out"]))
    assert len(told["losses"]) == 25
    # Without its last steps, and gone on with, it is the same model.
    run = [*base, "--checkpoints", tmp_path / "run", "--save-every", "10"]
    assert command(*run, "-o", again)["losses"] == told["losses"]
    shutil.rmtree(tmp_path / "run" / "step-00000025")
    resumed = command(*run, "--resume", "-o", tmp_path / "third")
    assert resumed["losses"] == told["losses"]
    assert (tmp_path / "third" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    model = lmrs.load(out)
    if family == "elmo":
        assert len((out / "vocab.txt").read_text().splitlines()) == model.config.vocabulary
        assert model.states(elmo.Words.of([["to", "be"]], letters=25)).shape == (2, 64)
        return
    # A delta goes on with what the family learns.
    how = ["--steps", "4", "--batch-tokens", "1024", "--context", "32", "--json"]
    losses = command("tune", out, file, *how, "-o", tmp_path / "delta")["losses"]
    assert losses[0] == pytest.approx(told["held_out"], abs=0.5)
    assert lmrs.delta.load(model, tmp_path / "delta").deltas
    engine = lmrs.Engine(model)
    assert engine.tokenizer.encode("to be").ids
    if family == "bert":
        assert engine.embed("to be or not").shape == (32,)
    else:
        assert len(engine.generate("KING", max_tokens=4, ignore_eos=True).tokens) == 4


def test_what_is_held_out_is_a_tenth(tmp_path: Path) -> None:
    lines = [f"line {n}" for n in range(40)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"body": line}) for line in lines))
    assert pretrain.documents(tmp_path / "a.txt") == (["\n".join(lines[:36])], ["\n".join(lines[36:])])
    assert pretrain.documents(tmp_path / "a.jsonl", column="body") == (lines[:36], lines[36:])
    (tmp_path / "a.txt").write_text("one line")
    with pytest.raises(InputError, match="the last tenth is held out"):
        pretrain.documents(tmp_path / "a.txt")


def tokenizer() -> Tokenizer:
    return texts.tokenizer()


@settings(max_examples=25)
@given(st.lists(st.text("abc de.\n", max_size=40), min_size=1, max_size=30), st.integers(1, 60))
def test_shards_hold_what_was_packed(documents: list[str], shard_tokens: int) -> None:
    chosen = tokenizer()
    expected = [[*chosen.encode(text).ids, *([] if chosen.eos_id is None else [chosen.eos_id])] for text in documents]
    expected = [ids for text, ids in zip(documents, expected, strict=True) if chosen.encode(text).ids]
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "shards"
        if not expected:
            with pytest.raises(InputError, match="nothing to pack"):
                pack(documents, directory, tokenizer=chosen, shard_tokens=shard_tokens)
            assert not directory.exists()
            return
        shards = pack(documents, directory, tokenizer=chosen, shard_tokens=shard_tokens)
        assert [ids.tolist() for ids in shards] == expected
        assert shards[-1].tolist() == expected[-1]
        assert [ids.tolist() for ids in shards[1:]] == expected[1:]
        assert shards.tokens == sum(map(len, expected))
        # Packed again it is replaced, and the bytes are the same.
        before = {path.name: path.read_bytes() for path in directory.iterdir()}
        pack(documents, directory, tokenizer=chosen, shard_tokens=shard_tokens)
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_training_on_shards_is_training_on_their_ids(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(json.dumps({"text": line}) + "\n" for line in texts.shakespeare().train[:4000].split("\n\n"))
    )
    texts.tokenizer().save(tmp_path / "tokenizer")
    told = command(
        *("data", "pack", file, "--tokenizer", tmp_path / "tokenizer", "-o", tmp_path / "shards"),
        *("--shard-tokens", "500", "--json"),
    )
    shards = Shards(tmp_path / "shards")
    assert told == {"documents": len(shards), "tokens": shards.tokens, "out": str(tmp_path / "shards")}
    assert len(list((tmp_path / "shards").glob("tokens-*.bin"))) > 2
    config = gpt2.Config(vocabulary=len(texts.tokenizer()), width=32, layers=1, heads=1, context=64, inner=64)
    losses = []
    for documents in (shards, [document.tolist() for document in shards]):
        model = models.initialise(gpt2.Model(config), seed=0)
        losses.append(train.fit(train.clm(model, documents), steps=3, batch_tokens=200).losses)
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("spoil", "error", "names"),
    [
        (lambda d: (d / "shards.json").unlink(), MissingFileError, "shards.json"),
        (lambda d: (d / "shards.json").write_text("{}"), FormatError, "is not a 'lmrs shards 1'"),
        (lambda d: (d / "ends-00000.bin").unlink(), FormatError, r"names ends-00000\.bin"),
        (lambda d: (d / "tokens-00000.bin").write_bytes(b"\0\0"), FormatError, "do not end where tokens-00000"),
    ],
)
def test_shards_that_are_not_whole(spoil: Any, error: type[Exception], names: str, tmp_path: Path) -> None:
    pack(["some text"] * 3, tmp_path / "shards", tokenizer=tokenizer())
    spoil(tmp_path / "shards")
    with pytest.raises(error, match=names):
        Shards(tmp_path / "shards")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--width", "33"], "width is 33"),
        (["--family", "elmo", "--tokenizer", "TOKENIZER"], "takes no tokenizer"),
        (["--family", "t5", "--tokenizer", "TOKENIZER"], "no </s> and <extra_id_0>"),
        (["--resume"], "--resume needs --checkpoints"),
        (["--data", "missing.txt"], r"missing\.txt: no such file"),
    ],
)
def test_bad_input_is_one_line(options: list[str], names: str, tmp_path: Path) -> None:
    file, saved = tmp_path / "text.txt", tmp_path / "tokenizer"
    file.write_text(texts.shakespeare().train[:3000])
    tokenizer().save(saved)
    given = [str(saved) if option == "TOKENIZER" else option for option in options]
    base = ["pretrain", "--family", "gpt2", "--data", str(file), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*base, *given])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert re.search(names, result.stderr), result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_one_command_from_shards(family: str, tmp_path: Path) -> None:
    """The same command, and a run that goes on, from ids in files."""
    file = tmp_path / "rows.jsonl"
    rows = [row for row in texts.shakespeare().train[:40_000].split("\n\n") if row]
    file.write_text("".join(json.dumps({"body": row}) + "\n" for row in rows))
    special = {"t5": ["<pad>", "</s>", "<unk>", *(f"<extra_id_{n}>" for n in range(100))]}.get(family)
    kind: Any = "wordpiece" if family == "bert" else "bpe"
    Tokenizer.train(rows, model=kind, vocab_size=400, special_tokens=special).save(tmp_path / "words")
    shards, words = tmp_path / "shards", tmp_path / "words"
    packing = ["data", "pack", file, "--column", "body", "--tokenizer", words, "-o", shards, "--shard-tokens", "4000"]
    base = ["pretrain", "--family", family, "--data", shards, "--layers", "1", "--width", "32", "--context", "32"]
    base += ["--steps", "20", "--batch-tokens", "256", "--rate", "0.01", "--json"]
    if family != "gpt2":
        command(*packing, "--json")
        refused = CliRunner().invoke(main, [*map(str, base), "-o", str(tmp_path / "no")])
        assert f"for {family} pack with --no-special" in refused.stderr
        packing.append("--no-special")
    assert command(*packing, "--json")["documents"] == len(rows)
    told = command(*base, "-o", tmp_path / "model", "--checkpoints", tmp_path / "run", "--save-every", "10")
    assert told["held_out"] < told["held_out_before"] - 0.2
    shutil.rmtree(tmp_path / "run" / "step-00000020")
    again = command(*base, "-o", tmp_path / "again", "--checkpoints", tmp_path / "run", "--resume")
    assert again["losses"] == told["losses"]
    assert lmrs.Engine(lmrs.load(tmp_path / "model")).tokenizer.encode(rows[0]).ids


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--family", "elmo"], "shards hold token ids"),
        (["--family", "gpt2", "--tokenizer", "SHARDS"], "brings the tokenizer"),
    ],
)
def test_what_shards_cannot_do(options: list[str], names: str, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    pack([f"some text {n}" for n in range(20)], shards, tokenizer=tokenizer())
    given = [str(shards) if option == "SHARDS" else option for option in options]
    result = CliRunner().invoke(main, ["pretrain", *given, "--data", str(shards), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert names in result.stderr
    pack([f"some text {n}" for n in range(9)], shards, tokenizer=tokenizer())
    with pytest.raises(InputError, match="has 9 documents, expected at least 10"):
        pretrain.documents(shards)


def test_examples_of_shards_are_made_when_asked_for(tmp_path: Path) -> None:
    """Making an objective reads how long documents are, and none of their tokens."""
    pack([f"some text {n}" * 5 for n in range(300)], tmp_path / "shards", tokenizer=tokenizer())
    shards = Shards(tmp_path / "shards")
    config = gpt2.Config(vocabulary=len(tokenizer()), width=32, layers=1, heads=1, context=64, inner=64)
    model = models.initialise(gpt2.Model(config), seed=0)
    read: list[int] = []

    class Watched(Shards):
        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return super().__getitem__(index)

    objective = train.clm(model, Watched(tmp_path / "shards"), context=16)
    assert not read
    assert objective.tokens(len(objective) - 1) <= 16
    assert set(read) == {299}
    plain = train.clm(model, [ids.tolist() for ids in shards], context=16)
    assert len(objective) == len(plain)
    for index in range(len(plain)):
        assert list(objective.examples[index].ids) == plain.examples[index].ids
        assert list(objective.examples[index].labels) == plain.examples[index].labels
    part = shards[10:20]
    assert len(part) == 10
    assert part.tokens == sum(map(len, part)) == part.lengths.sum()
    assert part[-1].tolist() == shards[19].tolist()
    with pytest.raises(InputError, match="no step"):
        shards[::2]
    small = models.initialise(gpt2.Model(replace(config, vocabulary=50)), seed=0)
    with pytest.raises(InputError, match=r"a vocabulary of \d+, the model has 50"):
        train.clm(small, shards)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 9), st.integers(0, 1))
def test_runs_are_those_of_cutting_each_document(lengths: list[int], size: int, overlap: int) -> None:
    documents = [list(range(n)) for n in lengths]
    least = 1 + overlap
    pieces = [ids[at : at + size + overlap] for ids in documents for at in range(0, len(ids), size)]
    expected = [piece for piece in pieces if len(piece) >= least]
    runs = Runs(documents, size, least=least, overlap=overlap)
    assert list(runs) == expected
    assert runs[1:] == expected[1:]
    with pytest.raises(IndexError):
        runs[len(expected)]


def test_a_dataset_is_a_corpus(tmp_path: Path) -> None:
    rows = [row for row in texts.shakespeare().train[:8000].split("\n\n") if row]
    dataset = datasets.Dataset.from_dict({"text": rows, "number": list(range(len(rows)))})
    streamed = dataset.to_iterable_dataset()
    assert list(texts_of(dataset)) == list(texts_of(streamed)) == rows
    whole = pack(dataset, tmp_path / "shards", tokenizer=tokenizer())
    again = pack(streamed, tmp_path / "again", tokenizer=tokenizer())
    assert [ids.tolist() for ids in whole] == [ids.tolist() for ids in again]
    dataset.save_to_disk(tmp_path / "saved")
    assert sum(map(len, pretrain.documents(tmp_path / "saved"))) == len(rows)
    config = gpt2.Config(vocabulary=len(tokenizer()), width=32, layers=1, heads=1, context=64, inner=64)
    model = models.initialise(gpt2.Model(config), seed=0)
    direct, listed = (train.clm(model, found, tokenizer=tokenizer()) for found in (dataset, rows))
    assert list(direct.examples) == list(listed.examples)
    with pytest.raises(InputError, match="no column 'body'; it has text, number"):
        next(texts_of(dataset, column="body"))
    with pytest.raises(InputError, match="row 0 of the dataset: number is 0, expected a text"):
        next(texts_of(dataset, column="number"))
    with pytest.raises(InputError, match="has the splits train, test"):
        pack(dataset.train_test_split(0.2), tmp_path / "no", tokenizer=tokenizer())
    (tmp_path / "saved" / "dataset_info.json").write_text("{")
    with pytest.raises(FormatError, match="not a dataset"):
        pretrain.documents(tmp_path / "saved")


@pytest.mark.parametrize("family", ["gpt2", "elmo"])
def test_one_command_on_torch(family: str, tmp_path: Path) -> None:
    """The same losses, and a model that loads without torch; in bfloat16, others."""
    file = tmp_path / "text.txt"
    file.write_text(texts.shakespeare().train[:10_000])
    small = ["--layers", "1", "--width", "32", "--context", "24", "--vocab-size", "300", "--steps", "6"]
    base = ["pretrain", "--family", family, "--data", file, *small, "--batch-tokens", "100", "--json"]
    ours = command(*base, "-o", tmp_path / "ours")
    theirs = command(*base, "-o", tmp_path / "theirs", "--device", "cpu")
    assert theirs["losses"] == pytest.approx(ours["losses"], abs=1e-4)
    assert theirs["held_out_before"] == pytest.approx(ours["held_out_before"], abs=1e-4)
    assert theirs["held_out"] == pytest.approx(ours["held_out"], abs=1e-3)
    assert lmrs.load(tmp_path / "theirs").config == lmrs.load(tmp_path / "ours").config
    rounded = command(*base, "-o", tmp_path / "rounded", "--device", "cpu", "--dtype", "bf16")
    assert rounded["losses"] != theirs["losses"]
    assert rounded["losses"] == pytest.approx(theirs["losses"], rel=0.02)
