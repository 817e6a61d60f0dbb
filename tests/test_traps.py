"""The traps of the families: each is one way a checkpoint has been read wrong, somewhere, with plausible output.

Where a trap is a variant of a config, a fresh random model of transformers with that variant is saved, loaded here and
compared, and the variant must matter: the same weights without it give other logits.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
import torch
import transformers
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.t5.modeling_t5 import T5Attention

from lmrs import models, ops
from lmrs.backend import native
from lmrs.backend.torch.attention import buckets as torch_buckets
from lmrs.batch import Batch, Ragged
from lmrs.errors import ConfigError
from lmrs.models import LanguageModel, umt5
from lmrs.models.config import activation
from lmrs.models.llama import rope_parameters
from lmrs.nn.rope import Rope

Array = npt.NDArray[Any]
FIXTURES = Path(__file__).parent / "fixtures" / "models"
TEXTS = [[5, 6, 7, 8, 9, 10, 11, 12, 3, 4, 60, 61], [17], [31, 30, 29, 28, 27]]
LLAMA = {
    "vocab_size": 80,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
GPT2 = {"vocab_size": 80, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 32}


def logits(model: LanguageModel) -> Array:
    batch = Batch.of(TEXTS)
    if hasattr(model, "encode"):
        return model(batch, model.encode(batch), Ragged("memory", batch.seqs.starts)).numpy()
    return model(batch).numpy()


def peer_logits(peer: Any) -> Array:
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            ids = torch.tensor([text])
            again = {"decoder_input_ids": ids} if peer.config.is_encoder_decoder else {}
            rows.append(peer(input_ids=ids, **again).logits[0].numpy())
    return np.concatenate(rows)


def assert_equal(ours: Array, theirs: Array) -> None:
    assert ours.shape == theirs.shape
    assert (np.abs(ours - theirs) <= 1e-4 * np.maximum(1, np.abs(theirs))).all()


def fresh(kind: Any, config: Any, seed: int = 0) -> Any:
    """A model of transformers with every weight random, norms and biases too."""
    model, random = kind(config).eval(), torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = parameter.data.mean() + 0.3 * torch.randn(parameter.shape, generator=random)
    return model


def assert_variant(kind: Any, fields: dict[str, Any], path: Path, **variant: Any) -> None:
    """Lmrs reads the model with ``variant`` as transformers does, and without it the logits are others."""
    made = {}
    for name, extra in (("with", variant), ("without", {})):
        peer = fresh(kind, kind.config_class(**fields | extra))
        peer.save_pretrained(path / name)
        made[name] = peer_logits(peer)
        assert_equal(logits(models.load(path / name)), made[name])
    assert np.abs(made["with"] - made["without"]).max() > 1e-2


def rewritten(name: str, path: Path, tensors: dict[str, Array], **fields: Any) -> Path:
    """The fixture's config, with ``fields`` changed, beside other tensors."""
    path.mkdir()
    config = json.loads((FIXTURES / name / "config.json").read_text()) | fields
    (path / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


def tensors_of(name: str) -> dict[str, Array]:
    return dict(safetensors.numpy.load_file(FIXTURES / name / "model.safetensors"))


# --- 1: Conv1D ---


def test_gpt2_projections_are_transposed_and_split() -> None:
    """Stored [in, 3·out] with q, k, v side by side; a square c_proj does not betray its orientation by shape."""
    model, stored = models.load(FIXTURES / "gpt2"), tensors_of("gpt2")
    parameters = model.named_parameters()
    fused = stored["transformer.h.1.attn.c_attn.weight"]
    for part, name in enumerate("qkv"):
        weight = parameters[f"blocks.1.attn.{name}.weight"].data.numpy()
        assert np.array_equal(weight, fused[:, 32 * part : 32 * (part + 1)].T)
    square = stored["transformer.h.1.attn.c_proj.weight"]
    assert square.shape == (32, 32)
    assert np.array_equal(parameters["blocks.1.attn.o.weight"].data.numpy(), square.T)


# --- 2: activations ---


@pytest.mark.parametrize(
    "name",
    [
        "gelu",
        "gelu_new",
        "gelu_fast",
        "gelu_python",
        "gelu_pytorch_tanh",
        "quick_gelu",
        "relu",
        "silu",
        "swish",
        "tanh",
    ],
)
def test_activation_names(name: str) -> None:
    x = np.linspace(-6, 6, 401, dtype=np.float32)[None]
    ours = ops.activation(native.array(x), kind=activation("hidden_act", name)).numpy()
    assert np.abs(ours - ACT2FN[name](torch.from_numpy(x)).numpy()).max() <= 1e-6


def test_activations_are_distinct() -> None:
    assert activation("f", "gelu") != activation("f", "gelu_new") != activation("f", "quick_gelu")


def test_t5_gated_gelu_is_the_tanh_form() -> None:
    assert models.load(FIXTURES / "flan-t5").config.kind == "gelu_tanh"


def test_bert_gelu_is_the_erf_form() -> None:
    assert models.load(FIXTURES / "bert").config.kind == "gelu"


# --- 3, 4, 5, 6, 8: T5 ---


def test_t5_does_not_scale_scores_and_its_inner_width_is_its_own() -> None:
    model = models.load(FIXTURES / "t5")
    attention = model.decoder.blocks[0].attn
    assert attention.scale == model.decoder.blocks[0].cross.scale == 1.0
    assert attention.q.weight.shape == (32, 24)


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (8, 12), (7, 100)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_buckets(buckets: int, max_distance: int, *, bidirectional: bool) -> None:
    """Through attention itself: values that are one-hot by key and a table that is its own index show every bucket."""
    distance = torch.arange(-300, 301)
    theirs = T5Attention._relative_position_bucket(distance, bidirectional, buckets, max_distance)
    relative = {"buckets": buckets, "max_distance": max_distance, "bidirectional": bidirectional}
    assert torch.equal(torch_buckets(distance, **relative), theirs)

    n = 160
    table = np.random.default_rng(0).normal(size=(buckets, 1)).astype(np.float32)
    zero, eye = np.zeros((n, n), np.float32), np.eye(n, dtype=np.float32)
    rows = Ragged.of("tokens", [n])
    weights = ops.attention(
        *(native.array(x) for x in (zero, zero, eye, table)),
        queries=rows,
        keys=rows,
        heads=1,
        kv_heads=1,
        scale=1.0,
        causal=not bidirectional,
        relative=relative,
    ).numpy()
    near = torch.arange(n) - torch.arange(n)[:, None]
    bias = torch.from_numpy(table)[T5Attention._relative_position_bucket(near, bidirectional, buckets, max_distance)]
    score = bias[..., 0] if bidirectional else bias[..., 0].masked_fill(near > 0, -torch.inf)
    assert np.abs(weights - score.softmax(-1).numpy()).max() <= 1e-6


def test_t5_one_table_a_stack_and_none_for_cross_attention(tmp_path: Path) -> None:
    model, stored = models.load(FIXTURES / "t5"), tensors_of("t5")
    assert [path for path in model.named_parameters() if "relative" in path] == ["encoder.relative", "decoder.relative"]
    old = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    path = rewritten("t5", tmp_path / "old", stored | {old: np.ones((8, 4), np.float32)})
    assert np.array_equal(logits(models.load(path)), logits(model))


def test_t5_tied_head_shrinks_states_and_an_own_head_does_not() -> None:
    tied, own = models.load(FIXTURES / "t5"), models.load(FIXTURES / "flan-t5")
    assert tied.config.scaled
    assert tied.head.weight is tied.embed.weight
    assert not own.config.scaled
    assert own.head.weight is not own.embed.weight


def test_umt5_scales_only_where_its_config_says_that_it_is_tied() -> None:
    fields = json.loads((FIXTURES / "umt5" / "config.json").read_text())
    assert umt5.Config.from_dict(fields).scaled
    assert not umt5.Config.from_dict(fields | {"tie_word_embeddings": False}).scaled


def test_each_block_of_umt5_has_its_own_biases() -> None:
    names = {path for path in models.load(FIXTURES / "umt5").named_parameters() if "relative" in path}
    assert names == {f"{stack}.blocks.{i}.relative" for stack, n in (("encoder", 3), ("decoder", 2)) for i in range(n)}


def test_t5_scaling_as_each_version_of_transformers_writes_it(tmp_path: Path) -> None:
    """Before v5 tie_word_embeddings false said so; v5 writes it true for all and scale_decoder_outputs beside it."""
    stored = tensors_of("flan-t5")
    new = models.load(FIXTURES / "flan-t5")
    config = json.loads((FIXTURES / "flan-t5" / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert config["scale_decoder_outputs"] is False
    path = rewritten("flan-t5", tmp_path / "v4", stored, tie_word_embeddings=False, scale_decoder_outputs=None)
    assert np.array_equal(logits(models.load(path)), logits(new))


def test_t5_copies_of_the_table(tmp_path: Path) -> None:
    stored = tensors_of("t5")
    table = stored["shared.weight"]
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    expected = logits(models.load(FIXTURES / "t5"))
    every = models.load(rewritten("t5", tmp_path / "every", stored | {name: table.copy() for name in names}))
    assert every.head.weight is every.embed.weight
    assert np.array_equal(logits(every), expected)
    del stored["shared.weight"]
    alone = models.load(rewritten("t5", tmp_path / "alone", stored | {names[0]: table}))
    assert np.array_equal(logits(alone), expected)
    path = rewritten("t5", tmp_path / "other", stored | {"shared.weight": table, names[1]: table + 1})
    with pytest.raises(ConfigError, match="unexpected decoder.embed_tokens.weight"):
        models.load(path)


def test_t5_decoder_starts_with_the_padding_token(tmp_path: Path) -> None:
    fields = {"decoder_start_token_id": None, "pad_token_id": 7}
    assert models.load(FIXTURES / "t5").config.start == 0
    assert models.load(rewritten("t5", tmp_path / "a", tensors_of("t5"), **fields)).config.start == 7


@pytest.mark.parametrize(
    ("name", "head", "table"),
    [
        ("gpt2", "lm_head.weight", "transformer.wte.weight"),
        ("llama", "lm_head.weight", "model.embed_tokens.weight"),
        ("bert", "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    ],
)
@pytest.mark.parametrize("said", [True, False])
def test_tying_is_read_off_the_file(name: str, head: str, table: str, tmp_path: Path, *, said: bool) -> None:
    """Whatever tie_word_embeddings says: absent or equal is tied, different is not."""
    stored = tensors_of(name)
    without = {key: value for key, value in stored.items() if key != head}
    absent = models.load(rewritten(name, tmp_path / "absent", without, tie_word_embeddings=said))
    equal = without | {head: stored[table].copy()}
    same = models.load(rewritten(name, tmp_path / "equal", equal, tie_word_embeddings=said))
    other = without | {head: stored[table][::-1].copy()}
    different = models.load(rewritten(name, tmp_path / "other", other, tie_word_embeddings=said))
    for model in (absent, same):
        assert model.config.tied
        assert model.head.weight is model.embed.weight
    assert not different.config.tied
    assert np.array_equal(different.head.weight.data.numpy(), other[head])
    assert np.array_equal(logits(absent), logits(same))
    assert not np.array_equal(logits(absent), logits(different))


def test_a_tied_table_stored_under_the_name_of_the_head(tmp_path: Path) -> None:
    stored = tensors_of("qwen2")
    stored["lm_head.weight"] = stored.pop("model.embed_tokens.weight")
    model = models.load(rewritten("qwen2", tmp_path / "a", stored))
    assert model.config.tied
    assert np.array_equal(logits(model), logits(models.load(FIXTURES / "qwen2")))


# --- 10: rotary positions ---

STRETCHES: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 4.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "attention_factor": 0.7},
    {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 0.8,
        "mscale_all_dim": 0.6,
        "truncate": False,
    },
]


@pytest.mark.parametrize("parameters", STRETCHES, ids=lambda p: "-".join(map(str, p.values())))
@pytest.mark.parametrize("theta", [1e4, 5e5])
def test_rope_frequencies(parameters: dict[str, Any], theta: float) -> None:
    given = parameters | {"rope_theta": theta}
    config = transformers.LlamaConfig(head_dim=64, max_position_embeddings=512, rope_parameters=dict(given))
    rope = Rope(64, given, context=512)
    if given["rope_type"] == "default":
        half = int(32 * given.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, 2 * half, 2).float() / (2 * half)
        theirs, factor = 1.0 / theta**exponents, 1.0
    else:
        theirs, factor = ROPE_INIT_FUNCTIONS[given["rope_type"]](config, "cpu")
    assert rope.factor == pytest.approx(factor, rel=1e-12)
    np.testing.assert_allclose(rope.frequencies.data, theirs.numpy(), rtol=3e-7)


def test_rope_as_older_files_say_it() -> None:
    scaling = {"type": "linear", "factor": 2.0}
    old = rope_parameters({"rope_theta": 5e5, "rope_scaling": scaling, "partial_rotary_factor": 0.5})
    assert old == {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5, "partial_rotary_factor": 0.5}
    assert rope_parameters({"rope_scaling": None}) == {"rope_type": "default", "rope_theta": 10000.0}


def test_rope_pairs_a_column_with_the_one_half_a_head_away() -> None:
    x = np.zeros((1, 8), np.float32)
    x[0, 4] = 1.0
    frequencies = np.array([np.pi / 2, 0.1], np.float32)
    turned = ops.rope(*(native.array(v) for v in (x, np.array([1], np.int32), frequencies)), head_dim=4).numpy()
    assert turned[0] == pytest.approx([0, 0, 0, 0, 0, 0, 1, 0], abs=1e-6)


@pytest.mark.parametrize("parameters", STRETCHES[2:6], ids=lambda p: p["rope_type"])
def test_rope_stretched_model(parameters: dict[str, Any], tmp_path: Path) -> None:
    if parameters["rope_type"] == "dynamic":  # within the context it is the default one
        peer = fresh(transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA, rope_parameters=dict(parameters)))
        peer.save_pretrained(tmp_path)
        assert_equal(logits(models.load(tmp_path)), peer_logits(peer))
        return
    given = dict(parameters, rope_theta=10000.0)
    if "original_max_position_embeddings" in given:
        given["original_max_position_embeddings"] = 8
    assert_variant(transformers.LlamaForCausalLM, LLAMA, tmp_path, rope_parameters=given)


# --- 11: windows ---


def test_mistral_window(tmp_path: Path) -> None:
    assert_variant(transformers.MistralForCausalLM, LLAMA | {"sliding_window": None}, tmp_path, sliding_window=4)


def test_mistral_window_is_4096_where_the_field_is_absent(tmp_path: Path) -> None:
    path = rewritten("mistral", tmp_path / "a", tensors_of("mistral"))
    config = json.loads((path / "config.json").read_text())
    del config["sliding_window"]
    (path / "config.json").write_text(json.dumps(config))
    assert models.load(path).config.windows == (4096, 4096)


@pytest.mark.parametrize("kind", [transformers.Qwen2ForCausalLM, transformers.Qwen3ForCausalLM])
def test_qwen_window_only_if_switched_on_and_from_a_layer_on(kind: Any, tmp_path: Path) -> None:
    fields = LLAMA | {"head_dim": 8, "sliding_window": 3, "max_window_layers": 1, "use_sliding_window": False}
    assert_variant(kind, fields, tmp_path, use_sliding_window=True)
    assert models.load(tmp_path / "with").config.windows == (None, 3, 3)
    assert models.load(tmp_path / "without").config.windows == (None, None, None)


# --- 12: Qwen's heads ---


def test_qwen3_norms_heads_before_the_rotation() -> None:
    """A norm after it would differ, since its weights differ by column."""
    model = models.load(FIXTURES / "qwen3")
    attention = model.blocks[0].attn
    assert attention.q_norm.weight.shape == (16,)
    batch = Batch.of(TEXTS)
    x = model.embed(batch.ids)
    right = attention.rope(attention.q_norm(attention.q(x)), batch.positions).numpy()
    wrong = attention.q_norm(attention.rope(attention.q(x), batch.positions)).numpy()
    assert np.abs(right - wrong).max() > 0.1


def test_qwen3_head_dim_is_128_where_the_field_is_absent() -> None:
    from lmrs.models.qwen3 import Config

    assert Config.from_dict({name: LLAMA[name] for name in LLAMA if LLAMA[name]}).heads.dim == 128


def test_head_dim_need_not_be_a_share_of_the_width() -> None:
    assert models.load(FIXTURES / "llama").blocks[0].attn.q.weight.shape == (48, 32)


def test_qwen2_has_biases_on_q_k_v_only() -> None:
    parameters = models.load(FIXTURES / "qwen2").named_parameters()
    biased = [path for path in parameters if path.startswith("blocks.0") and path.endswith("bias")]
    assert biased == ["blocks.0.attn.q.bias", "blocks.0.attn.k.bias", "blocks.0.attn.v.bias"]


@pytest.mark.parametrize("field", ["attention_bias", "mlp_bias"])
def test_llama_biases(field: str, tmp_path: Path) -> None:
    peer = fresh(transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA, **{field: True}))
    peer.save_pretrained(tmp_path)
    assert_equal(logits(models.load(tmp_path)), peer_logits(peer))


# --- 14: BERT ---


def test_bert_epsilon_and_token_types(tmp_path: Path) -> None:
    fields = dict(LLAMA, max_position_embeddings=20, pad_token_id=0)
    assert_variant(transformers.BertForMaskedLM, fields, tmp_path, layer_norm_eps=0.5)
    model = models.load(FIXTURES / "bert")
    plain, second = Batch.of([[4, 5]]), Batch.of([[4, 5]], segments=[[0, 1]])
    assert np.abs(model.states(plain).numpy() - model.states(second).numpy()).max() > 0.1


def test_bert_pooler_is_not_the_mean_of_the_states() -> None:
    model, batch = models.load(FIXTURES / "bert"), Batch.of(TEXTS)
    states, starts = model.states(batch), batch.seqs.starts[:-1]
    weight, bias = model.pooler.weight.data.numpy(), model.pooler.bias.data.numpy()
    assert model.pooled(batch).numpy() == pytest.approx(np.tanh(states.numpy()[starts] @ weight.T + bias), abs=1e-5)
    mean = ops.pool(states, batch.seqs, kind="mean").numpy()
    assert mean[1] == pytest.approx(states.numpy()[12], abs=1e-6)


@pytest.mark.parametrize("prefix", ["bert.", ""])
@pytest.mark.parametrize("old", [True, False])
def test_bert_names(prefix: str, tmp_path: Path, *, old: bool) -> None:
    """With and without the prefix, with gamma and beta, with the buffers of old files."""
    stored = {}
    for name, values in tensors_of("bert").items():
        name = name.replace("bert.", prefix, 1) if name.startswith("bert.") else name
        stored[
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            if old
            else name
        ] = values
    stored[f"{prefix}embeddings.position_ids"] = np.arange(40)[None].astype(np.float32)
    stored["cls.predictions.decoder.bias"] = stored["cls.predictions.bias"].copy()
    model = models.load(rewritten("bert", tmp_path / "a", stored))
    assert np.array_equal(logits(model), logits(models.load(FIXTURES / "bert")))


def test_bert_without_heads(tmp_path: Path) -> None:
    kept = {name: values for name, values in tensors_of("bert").items() if name.startswith("bert.encoder")}
    kept |= {name: values for name, values in tensors_of("bert").items() if name.startswith("bert.embeddings")}
    bare = {name.removeprefix("bert."): values for name, values in kept.items()}
    model = models.load(rewritten("bert", tmp_path / "a", bare))
    batch = Batch.of(TEXTS)
    assert np.array_equal(model.states(batch).numpy(), models.load(FIXTURES / "bert").states(batch).numpy())
    with pytest.raises(ConfigError, match="no masked-token head"):
        model.hidden(batch)
    with pytest.raises(ConfigError, match="no pooler"):
        model.pooled(batch)
    models.save(model, tmp_path / "saved")
    assert safetensors.numpy.load_file(tmp_path / "saved" / "model.safetensors").keys() == bare.keys()


# --- 16: GPT-2's variants and names ---


@pytest.mark.parametrize(
    "variant",
    [
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"activation_function": "relu"},
        {"layer_norm_epsilon": 0.3},
    ],
    ids=lambda v: next(iter(v)),
)
def test_gpt2_variants(variant: dict[str, Any], tmp_path: Path) -> None:
    assert_variant(transformers.GPT2LMHeadModel, GPT2, tmp_path, **variant)


def test_gpt2_reordered_attention_is_the_same_mathematics(tmp_path: Path) -> None:
    config = transformers.GPT2Config(**GPT2, reorder_and_upcast_attn=True, n_inner=40)
    peer = fresh(transformers.GPT2LMHeadModel, config)
    peer.save_pretrained(tmp_path)
    assert_equal(logits(models.load(tmp_path)), peer_logits(peer))


def test_gpt2_original_names_and_buffers(tmp_path: Path) -> None:
    stored = {name.removeprefix("transformer."): values for name, values in tensors_of("gpt2").items()}
    for layer in range(2):
        stored[f"h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 64, 64), np.float32))
        stored[f"h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
    model = models.load(rewritten("gpt2", tmp_path / "a", stored))
    assert np.array_equal(logits(model), logits(models.load(FIXTURES / "gpt2")))


def test_llama_base_model_names_and_buffers(tmp_path: Path) -> None:
    stored = {name.removeprefix("model."): values for name, values in tensors_of("qwen2").items()}
    stored["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    model = models.load(rewritten("qwen2", tmp_path / "a", stored))
    assert np.array_equal(logits(model), logits(models.load(FIXTURES / "qwen2")))


# --- 18: a vocabulary longer than the tokenizer's ---


def test_padded_rows_of_the_vocabulary_stay_in_the_softmax() -> None:
    model = models.load(FIXTURES / "t5")
    batch = Batch.of(TEXTS)
    hidden = model.hidden(batch, model.encode(batch), Ragged("memory", batch.seqs.starts))
    labels = native.array(np.arange(18, dtype=np.int32))
    scores = model.head(hidden).numpy().astype(np.float64)
    assert scores.shape == (18, 99)
    expected = scores[np.arange(18), np.arange(18)] - np.log(np.exp(scores).sum(-1))
    assert model.head.logprob(hidden, labels).numpy()[:, 0] == pytest.approx(expected, abs=1e-5)
