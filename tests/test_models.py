"""Every family against transformers: committed fixtures, real checkpoints, saving, and files that do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
import transformers
from hypothesis import given
from hypothesis import strategies as st

import lmrs
from lmrs import models, ops
from lmrs.backend import native, record
from lmrs.backend import torch as torch_backend
from lmrs.batch import Backend, Batch, Ragged
from lmrs.errors import ConfigError, InputError
from lmrs.models import LanguageModel, sentence
from lmrs.models.source import Source, by_tensor, stored_shape, written

Array = npt.NDArray[Any]
ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "models"
SHARED = ROOT.parent / "shared" / "data" / "models"
CAUSAL = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gpt_neox", "opt", "opt-post", "gemma", "gemma2", "gemma3_text"]
SEQ2SEQ = ["t5", "flan-t5", "mt5", "byt5", "umt5"]
MASKED = ["roberta", "xlm-roberta", "distilbert", "albert", "modernbert"]
ALL = [*CAUSAL, "bert", *MASKED, *SEQ2SEQ]
BACKENDS: list[Backend] = ["native", "torch"]


def assert_close(ours: Array, theirs: Array, bound: float) -> None:
    assert ours.shape == theirs.shape
    worst = float((np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))).max())
    assert worst <= bound, worst


def unpacked(values: Array, lengths: Array) -> list[list[int]]:
    return [part.tolist() for part in np.split(values, np.cumsum(lengths)[:-1])]


def on(backend: Backend, model: LanguageModel) -> LanguageModel:
    return model if backend == "native" else torch_backend.place(model)


def numbers(value: Any) -> Array:
    return value.numpy() if isinstance(value, native.Array) else torch_backend.numpy(value)


def bound(backend: Backend) -> float:
    return 1e-4 if backend == "native" else 1e-5


def next_id(logits: Any) -> int:
    return int(numbers(logits)[-1].argmax())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CAUSAL)
def test_causal(name: str, backend: Backend) -> None:
    model, expected = on(backend, models.load(FIXTURES / name)), np.load(FIXTURES / name / "reference.npz")
    texts = unpacked(expected["ids"], expected["lengths"])
    assert_close(numbers(model(Batch.of(texts, backend=backend))), expected["logits"], bound(backend))
    ids = list(texts[0])
    for _ in expected["greedy"]:
        ids.append(next_id(model(Batch.of([ids], backend=backend, select=[len(ids) - 1]))))
    assert ids[len(texts[0]) :] == expected["greedy"].tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_bert(backend: Backend) -> None:
    model, expected = on(backend, models.load(FIXTURES / "bert")), np.load(FIXTURES / "bert" / "reference.npz")
    parts = {name: unpacked(expected[name], expected["lengths"]) for name in ("ids", "segments")}
    batch = Batch.of(parts["ids"], segments=parts["segments"], backend=backend)
    pooled = model.pooled(batch)
    for ours, theirs in {
        "states": model.states(batch),
        "logits": model(batch),
        "pooled": pooled,
        "next_sentence": model.next_sentence(pooled),
    }.items():
        assert_close(numbers(theirs), expected[ours], bound(backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MASKED)
def test_masked(name: str, backend: Backend) -> None:
    model, expected = on(backend, models.load(FIXTURES / name)), np.load(FIXTURES / name / "reference.npz")
    parts = {part: unpacked(expected[part], expected["lengths"]) for part in ("ids", "segments") if part in expected}
    batch = Batch.of(parts.pop("ids"), **parts, backend=backend)
    assert_close(numbers(model.states(batch)), expected["states"], bound(backend))
    assert_close(numbers(model(batch)), expected["logits"], bound(backend))
    if "sentence_order" in expected:
        assert_close(numbers(model.sentence_order(model.pooled(batch))), expected["sentence_order"], bound(backend))


@pytest.mark.parametrize("name", CAUSAL)
def test_the_engine_writes_what_transformers_writes(name: str) -> None:
    expected = np.load(FIXTURES / name / "reference.npz")
    prompt, greedy = unpacked(expected["ids"], expected["lengths"])[0], expected["greedy"].tolist()
    engine = lmrs.Engine(models.load(FIXTURES / name))
    assert engine.generate(prompt, max_tokens=len(greedy), ignore_eos=True).tokens == greedy


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_the_engine_answers_what_transformers_answers(name: str) -> None:
    expected = np.load(FIXTURES / name / "reference.npz")
    prompt, greedy = unpacked(expected["ids"], expected["lengths"])[0], expected["greedy"].tolist()
    engine = lmrs.Engine(models.load(FIXTURES / name))
    assert engine.generate(prompt, max_tokens=len(greedy), ignore_eos=True).tokens == greedy


def test_what_is_generated_from_capped_logits_is_what_scoring_says() -> None:
    """To the bit: the head that stores no logits caps them as the Program that generates does."""
    model = models.load(FIXTURES / "gemma2")
    made = lmrs.Engine(model).generate([5, 6, 7], max_tokens=12, ignore_eos=True)
    whole = [5, 6, 7, *made.tokens]
    batch = Batch.of([whole[:-1]], labels=[whole[1:]])
    scored = model.head.logprob(model.hidden(batch), batch.labels).numpy()
    assert made.logprobs is not None
    assert np.array_equal(scored[-12:, 0], np.asarray(made.logprobs, np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SEQ2SEQ)
def test_encoder_decoder(name: str, backend: Backend) -> None:
    model, expected = on(backend, models.load(FIXTURES / name)), np.load(FIXTURES / name / "reference.npz")
    source = Batch.of(unpacked(expected["ids"], expected["lengths"]), backend=backend)
    memory, memory_seqs = model.encode(source), Ragged("memory", source.seqs.starts)
    assert_close(numbers(memory), expected["memory"], bound(backend))
    reply = Batch.of(unpacked(expected["decoder_ids"], expected["decoder_lengths"]), backend=backend)
    assert_close(numbers(model(reply, memory, memory_seqs)), expected["logits"], bound(backend))

    first = Batch.of([unpacked(expected["ids"], expected["lengths"])[0]], backend=backend)
    memory, memory_seqs = model.encode(first), Ragged("memory", first.seqs.starts)
    ids = [model.config.start]
    for _ in expected["greedy"]:
        ids.append(next_id(model(Batch.of([ids], backend=backend), memory, memory_seqs)))
    assert ids[1:] == expected["greedy"].tolist()


def run(model: LanguageModel, texts: list[list[int]]) -> Array:
    """The logits of ``texts``; an encoder-decoder reads each text on both sides."""
    batch = Batch.of(texts)
    if not hasattr(model, "encode"):
        return numbers(model(batch))
    return numbers(model(batch, model.encode(batch), Ragged("memory", batch.seqs.starts)))


TEXTS = [[5, 6, 7, 8, 9], [11], [4] * 9 + [90, 3], [8, 8, 7]]


@pytest.mark.parametrize("name", ALL)
def test_packed_is_one_by_one_to_the_bit(name: str) -> None:
    model = models.load(FIXTURES / name)
    alone = np.concatenate([run(model, [text]) for text in TEXTS])
    assert np.array_equal(run(model, TEXTS), alone)


@pytest.mark.parametrize("name", ALL)
def test_recorded_is_eager_to_the_bit(name: str) -> None:
    model, batch = models.load(FIXTURES / name), Batch.of(TEXTS, select=[0, 4, 5, 19])
    inputs = {part: getattr(batch, part).tensor for part in ("ids", "positions", "segments", "select")}
    streams = [("tokens", batch.seqs.starts.tolist())]
    if name in SEQ2SEQ:
        memory, seqs = model.encode(batch), Ragged("memory", batch.seqs.starts)
        encode = record.record(model, model.encode)
        (encoded,) = encode.run({"ids": inputs["ids"]}, streams)
        assert np.array_equal(encoded.numpy(), memory.numpy())
        eager = model(batch, memory, seqs)
        program = record.record(model, model, memory_width=model.config.width)
        inputs["memory"], streams = memory.tensor, [*streams, ("memory", seqs.starts.tolist())]
    else:
        eager, program = model(batch), record.record(model, model)
    wanted = {part: inputs[part] for part in program.inputs}
    (output,) = program.run(wanted, streams)
    assert np.array_equal(output.numpy(), eager.numpy())
    paths = {path for _, path in program.nodes}
    last = "decoder.blocks.1.cross.q" if name in SEQ2SEQ else "blocks.1.attn.q"
    assert {last, "head"} <= paths


@pytest.mark.parametrize("name", ALL)
def test_saved_is_what_transformers_wrote(name: str, tmp_path: Path) -> None:
    model = models.load(FIXTURES / name)
    models.save(model, tmp_path / "saved")
    written = safetensors.numpy.load_file(FIXTURES / name / "model.safetensors")
    ours = safetensors.numpy.load_file(tmp_path / "saved" / "model.safetensors")
    assert ours.keys() == written.keys()
    for tensor, values in written.items():
        assert np.array_equal(ours[tensor], values), tensor
    again = models.load(tmp_path / "saved")
    assert np.array_equal(run(again, TEXTS), run(model, TEXTS))


@pytest.mark.parametrize("name", ALL)
def test_made_from_scratch_transformers_reads_it(name: str, tmp_path: Path) -> None:
    config = models.load(FIXTURES / name).config
    model = models.initialise(type(models.load(FIXTURES / name))(config), seed=7)
    models.save(model, tmp_path)
    with (tmp_path / "config.json").open() as file:
        kind = getattr(transformers, json.load(file)["architectures"][0])
    peer = kind.from_pretrained(tmp_path).eval()
    assert_close(run(model, TEXTS), peer_logits(peer, TEXTS), 1e-4)


def peer_logits(peer: Any, texts: list[list[int]]) -> Array:
    rows = []
    for text in texts:
        ids = torch_backend.array(np.array([text]))
        again = {"decoder_input_ids": ids} if peer.config.is_encoder_decoder else {}
        output = peer(input_ids=ids, **again)
        logits = output.prediction_logits if hasattr(output, "prediction_logits") else output.logits
        rows.append(torch_backend.numpy(logits[0]))
    return np.concatenate(rows)


def test_initialise_is_a_function_of_seed_and_path() -> None:
    config = models.load(FIXTURES / "gpt2").config
    build = type(models.load(FIXTURES / "gpt2"))
    one, two, three = (models.initialise(build(config), seed=seed).named_parameters() for seed in (1, 1, 2))
    differs = [path for path in one if not np.array_equal(one[path].data.numpy(), three[path].data.numpy())]
    assert all(np.array_equal(one[path].data.numpy(), two[path].data.numpy()) for path in one)
    assert differs == [path for path in one if one[path].init in ("normal", "residual")]
    deep = one["blocks.0.ff.down.weight"].data.numpy()
    assert deep.std() == pytest.approx(0.02 / np.sqrt(2 * config.layers), rel=0.1)
    with pytest.raises(InputError, match="seed is -1"):
        models.initialise(build(config), seed=-1)


REAL = ["gpt-nano-sort", "glassllm-en", "stories260k", "rxnfp-bert-mlm-fp16", "rxnmapper-albert-mlm"]
REAL += [f"synthetic/{name}" for name in ("gpt2-tiny", "bert-tiny-mlm", "t5-v1.0-tiny", "t5-v1.1-tiny")]
LIVE = [FIXTURES / name for name in ALL] + [SHARED / name for name in REAL if (SHARED / name).is_dir()]


@pytest.mark.parametrize("path", LIVE, ids=lambda path: path.name)
def test_beside_transformers(path: Path) -> None:
    """The transformers that is installed, on the fixtures and on whatever real checkpoints are at hand."""
    model = models.load(path)
    random, most = np.random.default_rng(0), model.config.context or 40
    # Some families take the padding token for a place where nothing is.
    ids = [token for token in range(model.config.vocabulary) if token != model.metadata.get("pad_token_id")]
    texts = [random.choice(ids, n).tolist() for n in (min(most, 40), 1, 7)]
    kind = getattr(transformers, json.loads((path / "config.json").read_text())["architectures"][0])
    peer = kind.from_pretrained(path, dtype="float32").eval()
    assert_close(run(model, texts), peer_logits(peer, texts), 1e-4)


@pytest.mark.slow
def test_smollm2_from_gguf(smollm2_gguf: Path) -> None:
    model = models.load(smollm2_gguf)
    texts = [[504, 2365, 6354, 16438, 27003, 690, 260, 23790, 2767, 30], [1, 4093, 198]]
    peer = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype="float32"
    ).eval()
    assert_close(run(model, texts), peer_logits(peer, texts), 1e-4)


def test_minilm_embeddings(minilm_dir: Path) -> None:
    """The pooling the directory asks for, not BERT's own pooler."""
    described = sentence.read(minilm_dir)
    assert described == sentence.Sentence("mean", normalize=True, max_length=256)
    model = models.load(minilm_dir)
    texts = [
        [101, 7592, 1010, 2088, 999, 102],
        [101, 1996, 4248, 2829, 4419, 14523, 2058, 1996, 13971, 3899, 1012, 102],
    ]
    batch = Batch.of(texts)
    ours = ops.pool(model.states(batch), batch.seqs, kind="mean").numpy()
    peer = transformers.BertModel.from_pretrained(minilm_dir).eval()
    outputs = [peer(torch_backend.array(np.array([text]))) for text in texts]
    assert_close(ours, np.stack([torch_backend.numpy(out.last_hidden_state[0].mean(0)) for out in outputs]), 1e-4)
    pooled = model.pooled(batch).numpy()
    assert_close(pooled, np.concatenate([torch_backend.numpy(out.pooler_output) for out in outputs]), 1e-4)
    assert np.abs(pooled - ours).max() > 0.1


def changed(name: str, path: Path, fields: dict[str, Any], edit: Callable[[dict[str, Array]], None]) -> Path:
    """A copy of a fixture with config fields and tensors changed."""
    shutil.copytree(FIXTURES / name, path)
    config = json.loads((path / "config.json").read_text()) | fields
    (path / "config.json").write_text(json.dumps(config))
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    edit(tensors)
    safetensors.numpy.save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


def test_every_misfit_is_named(tmp_path: Path) -> None:
    def spoil(tensors: dict[str, Array]) -> None:
        del tensors["model.layers.0.mlp.up_proj.weight"]
        tensors["model.layers.7.strange"] = np.zeros(3, np.float32)
        tensors["model.norm.weight"] = np.zeros(31, np.float32)

    path = changed("llama", tmp_path / "spoiled", {}, spoil)
    with pytest.raises(ConfigError) as error:
        models.load(path)
    _, _, mismatches = models.inspect(path)
    assert len(mismatches) == 3
    for part in (
        *mismatches,
        str(path),
        "missing model.layers.0.mlp.up_proj.weight",
        "unexpected model.layers.7.strange",
        "model.norm.weight is [31], expected [32]",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("llama", {"model_type": "lama"}, "model_type is 'lama', expected one of "),
        ("llama", {"model_type": None}, "model_type is None"),
        ("llama", {"model_type": "checkpoint"}, "model_type is 'checkpoint'"),
        ("llama", {"hidden_size": "32"}, "hidden_size is '32'"),
        ("llama", {"hidden_size": None}, "hidden_size is None"),
        ("llama", {"num_attention_heads": 0}, "num_attention_heads is 0"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, expected an integer in 1 … 4096"),
        (
            "llama",
            {"num_key_value_heads": 3},
            "num_attention_heads is 4, expected a multiple of num_key_value_heads = 3",
        ),
        ("llama", {"num_hidden_layers": 1}, "unexpected model.layers.1.input_layernorm.weight"),
        ("llama", {"num_hidden_layers": 3}, "missing model.layers.2.input_layernorm.weight"),
        ("llama", {"hidden_act": "gleu"}, "hidden_act is 'gleu'"),
        ("llama", {"rms_norm_eps": -1}, "rms_norm_eps is -1"),
        ("llama", {"head_dim": 5}, "head_dim is 5, expected an even number"),
        ("llama", {"rope_parameters": {"rope_type": "spiral"}}, "rope_type is 'spiral'"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 2}}, "needs the field 'low_freq_factor'"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": "two"}}, "rope_parameters is"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 0}}, "frequencies that are not finite"),
        ("llama", {"rope_parameters": {"rope_theta": None, "partial_rotary_factor": 0.1}}, "1 columns of 12"),
        ("llama", {"rope_parameters": {"full_attention": {}}}, "rope_parameters is"),
        ("llama", {"vocab_size": 100}, "model.embed_tokens.weight is [99, 32], expected [100, 32]"),
        ("gpt2", {"n_head": 5}, "n_embd is 32, expected a multiple of n_head = 5"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("gpt2", {"n_positions": 65}, "transformer.wpe.weight is [64, 32], expected [65, 32]"),
        ("bert", {"is_decoder": True}, "is_decoder is True"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("t5", {"feed_forward_proj": "open-relu"}, "feed_forward_proj is 'open-relu'"),
        ("t5", {"decoder_start_token_id": 99}, "decoder_start_token_id is 99"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["x"]}, "layer_types is ['x']"),
    ],
)
def test_config_that_makes_no_sense(name: str, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = changed(name, tmp_path / "changed", fields, lambda _: None)
    with pytest.raises(ConfigError) as error:
        models.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_only_plain_native_models_are_saved(tmp_path: Path) -> None:
    model = models.load(FIXTURES / "gpt2")
    without = model.replace("blocks.1.ff", lambda _path, module: module.up)
    with pytest.raises(ConfigError, match=r"only a plain gpt2 model.*blocks\.1\.ff\.bias"):
        models.save(without, tmp_path / "a")
    with pytest.raises(InputError, match="not a native tensor"):
        models.save(torch_backend.place(model), tmp_path / "b")
    with pytest.raises(InputError, match="not loaded"):
        models.save(type(model)(model.config), tmp_path / "c")
    assert not any(tmp_path.iterdir())


def test_saving_over_what_was_loaded(tmp_path: Path) -> None:
    """Weights may be mapped from the very file that is replaced; a directory with anything else in it is left alone."""
    models.save(models.load(FIXTURES / "llama"), tmp_path / "a")
    model = models.load(tmp_path / "a")
    models.save(model, tmp_path / "a")
    expected = run(models.load(FIXTURES / "llama"), TEXTS)
    assert np.array_equal(run(model, TEXTS), expected)
    assert np.array_equal(run(models.load(tmp_path / "a"), TEXTS), expected)
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        models.save(model, tmp_path / "a")
    names = ["config.json", "generation_config.json", "model.safetensors", "notes.txt"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names


@pytest.mark.parametrize("name", ALL)
def test_sources_cover_the_model_once(name: str) -> None:
    model = models.load(FIXTURES / name)
    sources = model.sources()
    assert sources.keys() == model.named_parameters().keys()
    for tensor, parts in by_tensor(sources).items():
        pieces = [source.piece for source in parts.values() if source.piece]
        if pieces:
            assert sorted(piece.which for piece in pieces) == list(range(pieces[0].count)), tensor
            continue
        rows = sorted(source.rows for source in parts.values() if source.rows)
        assert len(rows) == len(parts) if len(parts) > 1 else not rows, tensor
        assert all(before[1] == after[0] for before, after in zip(rows, rows[1:], strict=False))


@given(st.data())
def test_sources_read_backwards(data: st.DataObject) -> None:
    """Parts cut from one stored tensor, put together again, are that tensor."""
    stored = np.arange(60, dtype=np.float32).reshape(*data.draw(st.sampled_from([(12, 5), (60,), (6, 10)])))
    transposed = stored.ndim == 2 and data.draw(st.booleans())
    rows = stored.T.shape[0] if transposed else stored.shape[0]
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, rows - 1), max_size=3))), rows]
    spans = list(zip(cuts[:-1], cuts[1:], strict=True))
    parts = {f"part{n}": Source("stored", transposed, span) for n, span in enumerate(spans)}
    if len(parts) == 1 and data.draw(st.booleans()):
        parts = {"part0": Source("stored", transposed)}
    values = {path: source.read(native.array(stored).tensor).numpy() for path, source in parts.items()}
    assert stored_shape({path: value.shape for path, value in values.items()}, parts) == stored.shape
    shuffled = dict(data.draw(st.permutations(list(parts.items()))))
    assert np.array_equal(written(values, shuffled), stored)


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        ([{"type": "a.Transformer"}, {"type": "a.Dense", "path": "1"}], {}, "modules are ['Transformer', 'Dense']"),
        ({"type": "a.Transformer"}, {}, "expected a list"),
        (None, {"pooling_mode": "weightedmean"}, "pooling_mode is ['weightedmean']"),
        (None, {"pooling_mode": ["mean", "max"]}, "pooling_mode is ['mean', 'max']"),
        (None, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "pooling_mode is ['cls', 'mean']"),
        (None, [], "expected an object"),
    ],
)
def test_sentence_directory_refused(modules: Any, pooling: Any, message: str, tmp_path: Path) -> None:
    default = [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}]
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "modules.json").write_text(json.dumps(modules or default))
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(ConfigError) as error:
        sentence.read(tmp_path)
    assert message in str(error.value)


def test_sentence_directory(tmp_path: Path) -> None:
    assert sentence.read(tmp_path) is None
    (tmp_path / "p").mkdir()
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "Transformer"}, {"type": "Pooling", "path": "p"}]))
    for said, pooling in (("cls", "first"), ("lasttoken", "last"), ("max", "max"), (["mean"], "mean")):
        (tmp_path / "p" / "config.json").write_text(json.dumps({"pooling_mode": said}))
        assert sentence.read(tmp_path) == sentence.Sentence(pooling, normalize=False, max_length=None)
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(ConfigError, match=r"modules\.json: cannot be read as JSON"):
        sentence.read(tmp_path)
