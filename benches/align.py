"""Steps of alignment beside a bare loop of transformers and PEFT: `python benches/align.py`.

GPT-2 small with random weights, LoRA of rank 8 on the attention, float32, the same threads. Each library has a process
of its own, and they take turns step by step, so that a busy moment of the machine falls on both; each warms up on a few
tokens. The bare loop is what TRL's trainers do without their bookkeeping: its numbers are a lower bound of TRL's.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

PAIRS, PAIR_TOKENS, PROMPT = 2, 256, 64
PROMPTS, NEW, EPOCHS, GROUP = 4, 64, 4, 4
REPLY, WARM = {"dpo": PAIR_TOKENS - PROMPT, "ppo": NEW, "grpo": NEW}, 4
VOCABULARY, RANK, ALPHA, RATE = 50257, 8, 16, 1e-5
RANDOM = np.random.default_rng(0)
SEQUENCES = RANDOM.integers(0, VOCABULARY, (2 * PAIRS, PAIR_TOKENS)).tolist()
ASKED = RANDOM.integers(0, VOCABULARY, (PROMPTS, PROMPT)).tolist()


def rewarded(reply: list[int]) -> float:
    return float(np.mean(np.array(reply) % 2))


def ours() -> dict[str, Callable[[int], Any]]:
    """A step of each algorithm in lmrs, with so many tokens in a reply."""
    from lmrs import align, delta, train
    from lmrs.initialise import initialise
    from lmrs.models import gpt2

    config = gpt2.Config(vocabulary=VOCABULARY, width=768, layers=12, heads=12, context=1024, inner=3072)
    base = initialise(gpt2.Model(config), seed=0)
    lora = delta.LoRA(rank=RANK, alpha=ALPHA, targets="*.attn.{q,k,v}")
    optimiser = train.AdamW(learning_rate=RATE)
    policy = lora(base)

    def dpo(new: int) -> None:
        pairs = [
            align.Preference(prompt=a[:PROMPT], chosen=a[PROMPT : PROMPT + new], rejected=b[PROMPT : PROMPT + new])
            for a, b in zip(SEQUENCES[:PAIRS], SEQUENCES[PAIRS:], strict=True)
        ]
        # The reference's log-probabilities are taken here, as the peer takes them in every step.
        objective = align.dpo(policy, align.encoded(policy, pairs).pairs)
        train.fit(objective, steps=1, batch_tokens=2 * PAIRS * PAIR_TOKENS, optimiser=optimiser)

    def scorer(samples: Any) -> list[float]:
        return [rewarded(sample.reply) for sample in samples]

    def ppo(new: int) -> None:
        setting = align.PPO(prompts=PROMPTS, max_tokens=new, epochs=EPOCHS)
        align.learn(align.ppo(policy, ASKED, scorer, setting=setting), iterations=1, optimiser=optimiser)

    def grpo(new: int) -> None:
        setting = align.GRPO(prompts=1, group=GROUP, max_tokens=new, beta=0.04)
        align.learn(align.grpo(policy, ASKED[:1], scorer, setting=setting), iterations=1, optimiser=optimiser)

    return {"dpo": dpo, "ppo": ppo, "grpo": grpo}


def peer() -> dict[str, Callable[[int], Any]]:
    """The same steps in a bare loop."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(int(os.environ["LMRS_NUM_THREADS"]))
    base = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    base.generation_config.eos_token_id = base.generation_config.pad_token_id = None
    setting = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["c_attn"], fan_in_fan_out=True)
    policy = peft.get_peft_model(base, setting)
    head = torch.nn.Linear(768, 1)
    optimiser = torch.optim.AdamW([*(p for p in policy.parameters() if p.requires_grad), *head.parameters()], lr=RATE)

    def logprobs(ids: Any) -> Any:
        logits = policy(ids).logits[:, PROMPT - 1 : -1]
        return torch.log_softmax(logits, -1).gather(-1, ids[:, PROMPT:, None])[..., 0]

    def referred(ids: Any) -> Any:
        with torch.no_grad(), policy.disable_adapter():
            return logprobs(ids)

    def stepped(loss: Any) -> None:
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()

    def drawn(prompts: list[list[int]], new: int) -> Any:
        with torch.no_grad():
            return policy.generate(input_ids=torch.tensor(prompts), max_new_tokens=new, do_sample=True, top_k=0)

    def dpo(new: int) -> None:
        ids = torch.tensor(SEQUENCES)[:, : PROMPT + new]
        gaps = (logprobs(ids) - referred(ids)).sum(1)
        stepped(-torch.nn.functional.logsigmoid(0.1 * (gaps[:PAIRS] - gaps[PAIRS:])).mean())

    def ppo(new: int) -> None:
        ids = drawn(ASKED, new)
        with torch.no_grad():
            old, reference = logprobs(ids), referred(ids)
            values = head(policy(ids, output_hidden_states=True).hidden_states[-1])[:, PROMPT - 1 : -1, 0]
        rewards = -0.05 * (old - reference)
        rewards[:, -1] += torch.tensor([rewarded(row) for row in ids[:, PROMPT:].tolist()])
        advantages, carried = torch.zeros_like(rewards), torch.zeros(len(ids))
        for t in reversed(range(new)):
            following = values[:, t + 1] if t + 1 < new else 0.0
            carried = rewards[:, t] + following - values[:, t] + 0.95 * carried
            advantages[:, t] = carried
        returns, advantages = advantages + values, (advantages - advantages.mean()) / (advantages.std() + 1e-4)
        for _ in range(EPOCHS):
            out = policy(ids, output_hidden_states=True)
            new = torch.log_softmax(out.logits[:, PROMPT - 1 : -1], -1).gather(-1, ids[:, PROMPT:, None])[..., 0]
            ratio = (new - old).exp()
            loss = torch.maximum(-ratio * advantages, -ratio.clamp(0.8, 1.2) * advantages).mean()
            guessed = head(out.hidden_states[-1])[:, PROMPT - 1 : -1, 0]
            stepped(loss + 0.1 * 0.5 * ((guessed - returns) ** 2).mean())

    def grpo(new: int) -> None:
        ids = drawn(ASKED[:1] * GROUP, new)
        scores = torch.tensor([rewarded(row) for row in ids[:, PROMPT:].tolist()])
        advantages = ((scores - scores.mean()) / (scores.std() + 1e-4))[:, None]
        reference, new = referred(ids), logprobs(ids)
        gap = reference - new
        stepped((-(new - new.detach()).exp() * advantages + 0.04 * (gap.exp() - gap - 1)).mean())

    return {"dpo": dpo, "ppo": ppo, "grpo": grpo}


def serve(make: Callable[[], dict[str, Callable[[int], Any]]], pipe: Connection) -> None:
    """Make the steps that are asked for, of so many tokens a reply; answer with seconds, CPU-seconds and peak MiB."""
    steps = make()
    for name, tokens in iter(pipe.recv, None):
        start, used = time.perf_counter(), time.process_time()
        steps[name](tokens)
        seconds, used = time.perf_counter() - start, time.process_time() - used
        lines = Path("/proc/self/status").read_text().splitlines()
        pipe.send((seconds, used, int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--only", choices=["dpo", "ppo", "grpo"], nargs="*", default=["dpo", "ppo", "grpo"])
    given = options.parse_args()
    os.environ["LMRS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(given.threads)
    context = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {}
    for job in given.only:
        pipes = {}
        for name, make in (("lmrs", ours), ("bare loop", peer)):
            pipes[name], theirs = context.Pipe()
            context.Process(target=serve, args=(make, theirs), daemon=True).start()
        taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in pipes}
        for turn in range(given.rounds + 1):
            for name, pipe in pipes.items():
                pipe.send((job, REPLY[job] if turn else WARM))
                answer = pipe.recv()
                if turn:
                    taken[name].append(answer)
                    print(f"{job}, {name}: {answer[0]:.2f} s, {answer[1]:.2f} s of CPU", file=sys.stderr)
        for pipe in pipes.values():
            pipe.send(None)
        seconds = {name: statistics.median(s for s, _, _ in rounds) for name, rounds in taken.items()}
        used = {name: statistics.median(c for _, c, _ in rounds) for name, rounds in taken.items()}
        memory = {name: max(m for _, _, m in rounds) for name, rounds in taken.items()}
        # CPU-seconds with one thread are what a busy machine still tells the truth about.
        found[job] = {"seconds": seconds, "CPU": used, "MiB": memory}
        found[job] |= {"faster": seconds["bare loop"] / seconds["lmrs"], "less CPU": used["bare loop"] / used["lmrs"]}
        print(f"{job}: " + ", ".join(f"{n} {seconds[n]:.2f} s, {memory[n]:,.0f} MiB" for n in pipes), file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
