"""transformers on torch, and PEFT."""

import itertools
from collections.abc import Callable

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import models
import work
from runners import Jobs

DTYPES = ("f32", "bf16")
KIND = {"minilm": AutoModel, "bert": AutoModel, "t5": AutoModelForSeq2SeqLM}


def versions() -> str:
    import peft

    return f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"


def jobs(name: str, dtype: str, threads: int) -> Jobs:
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    precision = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    path = models.transformers(name)
    model = KIND.get(name, AutoModelForCausalLM).from_pretrained(path, dtype=precision).eval()
    made = {"smollm2": _decoder, "gpt2": _decoder, "minilm": _encoder, "bert": _encoder, "t5": _generation}[name]
    done = {what: torch.inference_mode()(job) for what, job in made(name, model).items()}
    return {**done, "tune": _tune(precision)} if name == "smollm2" else done


def _generate(model: torch.nn.Module, rows: list[list[int]]) -> np.ndarray:
    ids, length = torch.tensor(rows), work.DECODE_TOKENS
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=length,
        max_new_tokens=length,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[:, -length:].numpy()


def _generation(name: str, model: torch.nn.Module) -> Jobs:
    rows = work.rows(name, work.STREAMS, work.ENCODE_TOKENS)
    return {"translate": lambda: _generate(model, rows[:1]), "translate 8": lambda: _generate(model, rows)}


def _decoder(name: str, model: torch.nn.Module) -> Jobs:
    prompt = torch.tensor([work.ids(name, work.PREFILL_TOKENS)])
    prompts = work.rows(name, work.STREAMS, work.DECODE_PROMPT)
    texts = torch.tensor(work.rows(name, work.SCORE_TEXTS, work.SCORE_TOKENS))

    def prefill() -> np.ndarray:
        logits = model(prompt, logits_to_keep=1).logits[0, -1].float()
        best = logits.argmax()
        return np.array([best.item(), logits.log_softmax(-1)[best].item()])

    def score() -> np.ndarray:
        logits = model(texts).logits[:, :-1].float()
        chosen = logits.gather(-1, texts[:, 1:, None])[..., 0]
        return (chosen - logits.logsumexp(-1)).sum(1).numpy()

    running = itertools.cycle(torch.tensor([ids]) for ids in work.windows(name))

    def windows() -> np.ndarray:
        ids = next(running)
        logits = model(ids).logits[0, :-1].float()
        return -torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()

    jobs = {
        "prefill": prefill,
        "decode": lambda: _generate(model, prompts[:1])[0],
        "streams": lambda: _generate(model, prompts),
        "score": score,
        "windows": windows,
    }
    return jobs | ({"choices": _choices(name, model)} if name == "smollm2" else {})


def _choices(name: str, model: torch.nn.Module) -> Callable[[], np.ndarray]:
    """The harness's own backend, which reads each context once for each of its continuations."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer = AutoTokenizer.from_pretrained(models.transformers(name))
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=work.CHOICES_EACH, device="cpu")
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=at) for at, pair in enumerate(work.choices())
    ]
    return lambda: np.array([total for total, _ in harness.loglikelihood(asked, disable_tqdm=True)])


def _encoder(name: str, model: torch.nn.Module) -> Jobs:
    rows = torch.tensor(work.rows(name, work.ENCODE_TEXTS, work.ENCODE_TOKENS))

    def encode() -> np.ndarray:
        return model(rows, attention_mask=torch.ones_like(rows)).last_hidden_state.float().mean(1).numpy()

    if name != "minilm":
        return {"encode": encode}
    tokenizer = AutoTokenizer.from_pretrained(models.minilm())

    def embed() -> np.ndarray:
        batch = tokenizer(work.sentences(), padding=True, truncation=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None].float()
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()

    return {"encode": encode, "embed": embed}


def _tune(precision: torch.dtype) -> Callable[[], np.ndarray]:
    # PEFT changes the model it is given, so the tuned one is a model of its own.
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(models.transformers("smollm2"), dtype=precision),
        LoraConfig(
            r=work.RANK, lora_alpha=work.ALPHA, lora_dropout=0.0, target_modules=[f"{n}_proj" for n in work.TARGETS]
        ),
    )
    optimiser = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=work.RATE)
    block = torch.tensor(work.rows("smollm2", work.TUNE_SEQUENCES, work.TUNE_TOKENS))

    def tune() -> np.ndarray:
        loss = tuned(block, labels=block).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return np.array([loss.item()])

    return tune
