"""The jobs done by transformers, torch and PEFT in float32."""

from collections.abc import Callable

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import work


def versions() -> str:
    import peft
    import transformers

    return f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"


def jobs(threads: int) -> dict[str, Callable[[], np.ndarray]]:
    """A function for each job; what it returns is compared with the other runner's."""
    torch.set_num_threads(threads)
    path = work.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    ids = torch.tensor(tokenizer(work.prose()[:20_000], add_special_tokens=False)["input_ids"])
    encoder_tokenizer = AutoTokenizer.from_pretrained(work.minilm())
    encoder = AutoModel.from_pretrained(work.minilm(), dtype=torch.float32).eval()

    @torch.inference_mode()
    def prefill() -> np.ndarray:
        logits = model(ids[None, : work.PREFILL_TOKENS], logits_to_keep=1).logits[0, -1]
        best = logits.argmax()
        return np.array([best.item(), logits.log_softmax(-1)[best].item()])

    @torch.inference_mode()
    def decode() -> np.ndarray:
        prompt = tokenizer(work.DECODE_PROMPT, return_tensors="pt")
        length = work.DECODE_TOKENS
        out = model.generate(
            **prompt, do_sample=False, min_new_tokens=length, max_new_tokens=length, pad_token_id=tokenizer.eos_token_id
        )
        return out[0, prompt["input_ids"].shape[1] :].numpy()

    @torch.inference_mode()
    def score() -> np.ndarray:
        batch = tokenizer(work.score_texts(), padding=True, padding_side="right", return_tensors="pt")
        logits = model(**batch).logits[:, :-1]
        chosen = logits.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        counted = batch["attention_mask"][:, 1:]
        sums = ((chosen - logits.logsumexp(-1)) * counted).sum(1)
        return np.array([*sums.tolist(), counted.sum().item() + len(sums)])

    @torch.inference_mode()
    def embed() -> np.ndarray:
        batch = encoder_tokenizer(work.sentences(), padding=True, truncation=True, return_tensors="pt")
        hidden = encoder(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].float()
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()

    # PEFT changes the model it is given, so the tuned one is a model of its own.
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32),
        LoraConfig(
            r=work.RANK, lora_alpha=work.ALPHA, lora_dropout=0.0, target_modules=[f"{n}_proj" for n in work.TARGETS]
        ),
    )
    optimiser = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=work.RATE)
    block = ids[: work.TUNE_SEQUENCES * work.TUNE_TOKENS].view(work.TUNE_SEQUENCES, work.TUNE_TOKENS)

    def tune() -> np.ndarray:
        loss = tuned(block, labels=block).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return np.array([loss.item()])

    return {"prefill": prefill, "decode": decode, "score": score, "embed": embed, "tune": tune}
