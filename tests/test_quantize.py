"""Weights packed ahead: the bits of packing at load, damaged files refused, a cache that follows its checkpoint."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import lmrs
from lmrs.backend import native
from lmrs.cli import main
from lmrs.delta import LoRA
from lmrs.engine import DType, quantize
from lmrs.models import LanguageModel, initialise, save
from lmrs.models.family import family

DTYPES: list[DType] = ["f32", "bf16", "int8", "int4"]
GENERATING = ["gpt2", "llama", "qwen3", "gemma2", "gpt_neox", "opt", "t5"]
READING = ["bert", "distilbert", "modernbert", "albert"]
PROMPT = [3, 1, 4, 1, 5]


def packed(fixtures: Path, family: str, where: Path, dtype: DType) -> Path:
    """The directory of a packed fixture."""
    quantize(lmrs.load(fixtures / "models" / family), where / "packed", dtype=dtype)
    return where / "packed"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", GENERATING)
def test_a_packed_model_writes_the_bits_of_one_packed_at_load(
    fixtures: Path, tmp_path: Path, family: str, dtype: DType
) -> None:
    directory = packed(fixtures, family, tmp_path, dtype)
    with lmrs.Engine(lmrs.load(fixtures / "models" / family), dtype=dtype) as at_load:
        expected = at_load.generate(PROMPT, max_tokens=8, ignore_eos=True)
    with lmrs.Engine(lmrs.load(directory)) as engine:
        assert engine.dtype == dtype
        found = engine.generate(PROMPT, max_tokens=8, ignore_eos=True)
    assert found.tokens == expected.tokens
    assert found.logprobs.tobytes() == expected.logprobs.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", READING)
def test_a_packed_encoder_embeds_to_the_bits(fixtures: Path, tmp_path: Path, family: str, dtype: DType) -> None:
    directory = packed(fixtures, family, tmp_path, dtype)
    expected = lmrs.Engine(lmrs.load(fixtures / "models" / family), dtype=dtype).embed([PROMPT])
    assert lmrs.Engine(lmrs.load(directory)).embed([PROMPT]).tobytes() == expected.tobytes()


def test_the_model_of_a_packed_directory_has_the_weights_that_products_use(fixtures: Path, tmp_path: Path) -> None:
    model = lmrs.load(fixtures / "models" / "llama")
    again = lmrs.load(packed(fixtures, "llama", tmp_path, "bf16"))
    for path, parameter in model.named_parameters().items():
        kept = again.named_parameters()[path].data.numpy()
        np.testing.assert_allclose(kept, parameter.data.numpy(), rtol=2**-8, err_msg=path)


def test_a_delta_of_the_model_fits_its_packed_form(fixtures: Path, tmp_path: Path) -> None:
    model = lmrs.load(fixtures / "models" / "llama")
    tuned = randomised(LoRA(rank=2, alpha=64, targets="*.attn.{q,v}")(model))
    lmrs.delta.save(tuned, tmp_path / "delta")
    engine = lmrs.Engine(lmrs.load(packed(fixtures, "llama", tmp_path, "int8")))
    engine.load_delta("tuned", tmp_path / "delta")
    expected = lmrs.Engine(lmrs.delta.load(model, tmp_path / "delta"), dtype="int8").generate(PROMPT, max_tokens=4)
    assert engine.generate(PROMPT, max_tokens=4, delta="tuned").tokens == expected.tokens
    other = lmrs.load(packed(fixtures, "qwen3", tmp_path / "other", "int8"))
    with pytest.raises(lmrs.Error):
        lmrs.Engine(other).load_delta("tuned", tmp_path / "delta")


def test_a_delta_merged_into_a_packed_model(fixtures: Path, tmp_path: Path) -> None:
    """It is a plain model, of weights that no delta of the packed one was trained on."""
    base = lmrs.load(packed(fixtures, "llama", tmp_path, "int8"))
    tuned = randomised(LoRA(rank=2, alpha=64, targets="*.attn.{q,v}")(base))
    lmrs.delta.save(tuned, tmp_path / "delta")
    merged = lmrs.delta.merge(tuned)
    with pytest.raises(lmrs.ConfigError, match="was trained on weights"):
        lmrs.delta.load(merged, tmp_path / "delta")
    lmrs.models.save(merged, tmp_path / "merged")
    expected = lmrs.Engine(merged, dtype="f32").generate(PROMPT, max_tokens=4).tokens
    assert lmrs.Engine(lmrs.load(tmp_path / "merged")).generate(PROMPT, max_tokens=4).tokens == expected


def test_another_dtype_than_the_packed_one_is_refused(fixtures: Path, tmp_path: Path) -> None:
    model = lmrs.load(packed(fixtures, "gpt2", tmp_path, "int8"))
    with pytest.raises(lmrs.InputError, match="was packed as int8"):
        lmrs.Engine(model, dtype="f32")
    with pytest.raises(lmrs.ConfigError, match="packed as int8 already"):
        quantize(model, tmp_path / "again", dtype="int4")
    with pytest.raises(lmrs.InputError, match="float64"):
        lmrs.load(tmp_path / "packed", dtype="float64")


def test_a_delta_is_not_packed_with_its_model(fixtures: Path, tmp_path: Path) -> None:
    tuned = LoRA(rank=2, targets="*.attn.q")(lmrs.load(fixtures / "models" / "gpt2"))
    with pytest.raises(lmrs.ConfigError, match="only a plain gpt2"):
        quantize(tuned, tmp_path / "packed", dtype="int8")


def randomised(model: LanguageModel) -> LanguageModel:
    """The model with its trainable parameters drawn at random."""
    random = np.random.default_rng(5)
    for parameter in model.named_parameters().values():
        if parameter.trainable:
            parameter.data = native.array(random.normal(size=parameter.shape).astype(np.float32)).tensor
    return model


# --- damage ---


def test_files_of_two_models_are_refused(fixtures: Path, tmp_path: Path) -> None:
    one = packed(fixtures, "llama", tmp_path / "one", "int8")
    other = packed(fixtures, "mistral", tmp_path / "other", "int8")
    shutil.copyfile(other / "panels.safetensors", one / "panels.safetensors")
    with pytest.raises(lmrs.FormatError, match="not made from the same weights"):
        lmrs.load(one)


def test_another_version_is_refused(fixtures: Path, tmp_path: Path) -> None:
    directory = packed(fixtures, "gpt2", tmp_path, "int8")
    file = directory / "panels.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"version":"1"', b'"version":"9"'))
    with pytest.raises(lmrs.FormatError, match="of version '9', expected '1'"):
        lmrs.load(directory)


def test_damaged_panels_are_one_typed_error(fixtures: Path, tmp_path: Path) -> None:
    """Every byte of the header flipped in turn, and the file cut short at many places: an error of ours, or no harm."""
    directory = packed(fixtures, "gpt2", tmp_path, "int4")
    file = directory / "panels.safetensors"
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    random = np.random.default_rng(9)
    for at in random.permutation(header)[:400]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(random.integers(8))
        _replaced(file, bytes(damaged))
        try:
            lmrs.load(directory)
        except lmrs.Error:
            continue
        # What is left is padding, or says nothing of the panels.
        assert json.loads(bytes(damaged[8:header])).keys() == json.loads(whole[8:header]).keys(), at
    for length in (*range(0, 64, 7), *random.integers(64, len(whole) - 1, 60)):
        _replaced(file, whole[:length])
        with pytest.raises(lmrs.Error):
            lmrs.load(directory)
    file.unlink()
    with pytest.raises(lmrs.MissingFileError):
        lmrs.load(directory)


def _replaced(file: Path, data: bytes) -> None:
    """Another file of that name, so that whoever maps the old one is not disturbed."""
    file.with_suffix(".new").write_bytes(data)
    os.replace(file.with_suffix(".new"), file)


def test_the_description_is_guarded_by_its_hash(fixtures: Path, tmp_path: Path) -> None:
    directory = packed(fixtures, "gpt2", tmp_path, "int8")
    file = directory / "panels.safetensors"
    data = file.read_bytes()
    changed = data.replace(b'\\"strip\\": 32', b'\\"strip\\": 16').replace(b'\\"strip\\": 64', b'\\"strip\\": 16')
    assert changed != data
    file.write_bytes(changed)
    with pytest.raises(lmrs.FormatError, match="SHA-256"):
        lmrs.load(directory)


# --- the cache ---


def test_the_cache_is_written_once_used_and_replaced_when_the_checkpoint_changes(
    fixtures: Path, tmp_path: Path
) -> None:
    source, cache = tmp_path / "model", tmp_path / "cache"
    shutil.copytree(fixtures / "models" / "llama", source)

    def generate() -> bytes:
        with lmrs.Engine(lmrs.load(source), dtype="int8", cache=cache) as engine:
            return engine.generate(PROMPT, max_tokens=6, ignore_eos=True).logprobs.tobytes()

    expected = lmrs.Engine(lmrs.load(source), dtype="int8").generate(PROMPT, max_tokens=6, ignore_eos=True)
    assert generate() == expected.logprobs.tobytes()
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    assert generate() == expected.logprobs.tobytes()
    assert file.stat().st_mtime_ns == written
    # Another checkpoint of the same shapes at the same place.
    model = lmrs.load(source)
    shutil.rmtree(source)
    save(initialise(family("llama").Model(model.config, model.metadata), seed=3), source)
    other = lmrs.Engine(lmrs.load(source), dtype="int8").generate(PROMPT, max_tokens=6, ignore_eos=True)
    assert other.logprobs.tobytes() != expected.logprobs.tobytes()
    expected = other
    assert generate() == expected.logprobs.tobytes()
    assert file.stat().st_mtime_ns != written
    # Damage is no reason not to start.
    _replaced(file, file.read_bytes()[:-64])
    assert generate() == expected.logprobs.tobytes()
    assert generate() == expected.logprobs.tobytes()


def test_weights_that_were_changed_do_not_come_from_the_cache(fixtures: Path, tmp_path: Path) -> None:
    model = lmrs.load(fixtures / "models" / "llama")
    lmrs.Engine(model, dtype="bf16", cache=tmp_path).generate(PROMPT, max_tokens=1)
    tuned = randomised(LoRA(rank=2, targets="*.attn.q", alpha=64)(lmrs.load(fixtures / "models" / "llama")))
    merged = lmrs.delta.merge(tuned)
    merged.source = model.source
    expected = lmrs.Engine(merged, dtype="bf16").generate(PROMPT, max_tokens=6, ignore_eos=True)
    found = lmrs.Engine(merged, dtype="bf16", cache=tmp_path).generate(PROMPT, max_tokens=6, ignore_eos=True)
    assert found.logprobs.tobytes() == expected.logprobs.tobytes()


# --- the command ---


def test_quantize_takes_the_tokenizer_along(smollm2_gguf: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(main, ["quantize", str(smollm2_gguf), "-o", str(tmp_path / "packed"), "--json"])
    assert run.exit_code == 0, run.output
    said = json.loads(run.stdout)
    assert said["dtype"] == "int8"
    assert said["bytes"] > 2**27
    engine, at_load = lmrs.Engine(lmrs.load(tmp_path / "packed")), lmrs.Engine(lmrs.load(smollm2_gguf), dtype="int8")
    found, expected = (each.generate("The sea", max_tokens=8) for each in (engine, at_load))
    assert (found.text, found.logprobs.tobytes()) == (expected.text, expected.logprobs.tobytes())
    chat = [{"role": "user", "content": "Hello"}]
    assert engine.tokenizer.apply_chat_template(chat) == at_load.tokenizer.apply_chat_template(chat)
    assert at_load.plan().weights == engine.plan().weights
    refused = CliRunner().invoke(main, ["quantize", str(tmp_path / "packed"), "-o", str(tmp_path / "again")])
    assert refused.exit_code == 1
    assert "packed as int8 already" in refused.output
