"""`lmrs align`: teach a model what is preferred."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click

import lmrs
from lmrs import align as library
from lmrs.align.logprobs import backend_of, measured
from lmrs.align.preferences import objects
from lmrs.align.rollout import rollout, scored
from lmrs.align.sft import completion, instructions
from lmrs.batch import Dtype
from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.cli.methods import NAMES, method
from lmrs.errors import FormatError, InputError
from lmrs.models.beside import tokenizer_of
from lmrs.ops import Pooling
from lmrs.terminal import losses, progress, waiting
from lmrs.train import AdamW, Cosine, Linear, NextToken, fit

EXAMPLES = """\b
Examples:
  lmrs align sft smollm2.gguf alpaca.jsonl --out instructed
  lmrs align dpo smollm2.gguf hh.jsonl --out preferred --beta 0.1
  lmrs align reward smollm2.gguf hh.jsonl --out judge
  lmrs align ppo smollm2.gguf prompts.jsonl --reward judge --out pleasing
  lmrs align grpo smollm2.gguf sums.jsonl --out right
"""

PAIRWISE: dict[str, Callable[..., Any]] = {
    "dpo": lambda policy, pairs, beta, loss: library.dpo(
        policy, pairs, setting=library.DPO(beta=beta or 0.1, losses=loss or "sigmoid")
    ),
    "orpo": lambda policy, pairs, beta, _: library.orpo(policy, pairs, setting=library.ORPO(beta=beta or 0.1)),
    "cpo": lambda policy, pairs, beta, _: library.cpo(policy, pairs, setting=library.CPO(beta=beta or 0.1)),
    "simpo": lambda policy, pairs, beta, _: library.simpo(
        policy, pairs, setting=library.CPO(beta=beta or 2.0, loss="simpo", nll=0.0)
    ),
    "kto": lambda policy, pairs, beta, _: library.kto(
        policy, library.unpaired(pairs), setting=library.KTO(beta=beta or 0.1)
    ),
    "reward": lambda model, pairs, *_: library.reward(model, pairs),
}
ONLINE = ("ppo", "grpo", "rloo")


@click.command(epilog=EXAMPLES)
@click.argument("algorithm", type=click.Choice(["sft", *PAIRWISE, *ONLINE]))
@options.model
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@options.out("Directory to write the delta to.")
@click.option(
    "--held-out",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file like FILE to judge by alone.",
)
@click.option("--steps", type=click.IntRange(min=1), default=100, show_default=True, help="Steps, or iterations.")
@click.option("--batch-tokens", default=1024, show_default=True, help="Tokens in a step (not ppo, grpo, rloo).")
@click.option("--longest", type=int, help="Leave out what has more tokens [default: what the model takes].")
@click.option("--rate", type=float, help="Peak learning rate [default: 1e-4; 1e-5 for ppo, grpo, rloo].")
@click.option("--beta", type=float, help="Of the loss, or the weight of the KL [default: the algorithm's].")
@click.option("--loss", help="Which loss of DPO, such as ipo or hinge [default: sigmoid].")
@click.option("--reward", type=click.Path(path_type=Path, exists=True), help="What `lmrs align reward` wrote, for ppo.")
@click.option(
    "--pooling",
    type=click.Choice(get_args(Pooling)),
    default="last",
    show_default=True,
    help="What a reward reads of the tokens' states; mean suits small models and encoders.",
)
@click.option("--max-tokens", default=53, show_default=True, help="Of a reply (ppo, grpo, rloo).")
@click.option("--prompts", default=4, show_default=True, help="In an iteration (ppo, grpo, rloo).")
@click.option("--group", default=8, show_default=True, help="Replies to a prompt (grpo, rloo).")
@click.option(
    "--method", "name", type=click.Choice(list(NAMES)), default="lora", show_default=True, help="Which delta."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the delta; repeatable.")
@click.option("--checkpoints", type=click.Path(path_type=Path), help="Directory to save the run in, to resume it.")
@options.products
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same delta, bit for bit.")
@options.as_json
def align(
    *,
    algorithm: str,
    model: Path,
    file: Path,
    out: Path,
    held_out: Path | None,
    steps: int,
    rate: float | None,
    name: str,
    settings: tuple[str, ...],
    checkpoints: Path | None,
    dtype: Dtype,
    seed: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Align MODEL with FILE by ALGORITHM, and write the delta that does it to --out.

    FILE has one JSON object a line. sft: messages, Alpaca, Dolly, ShareGPT. dpo, orpo, cpo, simpo, kto, reward: chosen
    and rejected, with a prompt or as whole conversations (HH). ppo, grpo, rloo: prompt, a text or messages, and for a
    verified reward its answer: a reply with it as a word scores 1. What a model cannot take is left out and counted. A
    run with --checkpoints goes on where it was killed. What is held out is judged before and after: by the metrics of
    the algorithm, or by the reward of one reply drawn to each prompt.

    With --json: {"out", "algorithm", "steps", "metrics"}, metrics by TRL's names, an object a step, and with --held-out
    also "held_out": {"before": metrics, "after": metrics}.
    """
    if algorithm in ONLINE and dtype != "f32":
        raise click.UsageError(
            f"--dtype {dtype} is not for {algorithm}: its updates compute what the engine does, in f32"
        )
    with waiting(f"loading {model.name}"):
        base = lmrs.load(model)
        tuned = method(name, settings, seed=seed)(base)
    rate = rate or (1e-5 if algorithm in ONLINE else 1e-4)
    running: dict[str, Any] = {"seed": seed, "checkpoints": checkpoints, "resume": checkpoints is not None}
    told: list[dict[str, float]] = []
    if algorithm in ONLINE:
        with waiting(f"reading {file.name}"):
            learner = _online(algorithm, tuned, base, file, given)
            judge = _unjudged
            if held_out is not None:
                judge = _drawn(tuned, _online(algorithm, tuned, base, held_out, given), given["max_tokens"], seed)
            before = judge()
        with progress(algorithm, steps) as said:

            def heard(iteration: Any) -> None:
                told.append(dict(iteration.metrics))
                score = iteration.metrics.get("objective/scores", iteration.metrics.get("reward", 0.0))
                sample = " ".join(iteration.samples[0].text.split())
                said(f"reward {score:.3f}  {sample[:60]}")

            optimiser = AdamW(learning_rate=rate, eps=1e-5)
            library.learn(
                learner, iterations=steps, optimiser=optimiser, schedule=Linear(), on_iteration=heard, **running
            )
    else:
        trained: Any = library.Scored(tuned, seed=seed, pooling=given["pooling"]) if algorithm == "reward" else tuned
        with waiting(f"reading {file.name}"):
            objective = _offline(algorithm, trained, tuned, file, given)
            judge = _unjudged
            if held_out is not None:
                # KTO's loss has no pairs; its rewards are DPO's.
                kind = "dpo" if algorithm == "kto" else algorithm
                judge = _judged(_offline(kind, trained, tuned, held_out, given))
            before = judge()
        with losses(algorithm, steps, unit="tokens" if algorithm == "sft" else "examples") as live:

            def stepped(step: Any) -> None:
                drained = objective.told.drain() if hasattr(objective, "told") else {}
                told.append({"loss": step.loss, **drained})
                live(step.loss, step.tokens)

            fit(
                objective,
                steps=steps,
                batch_tokens=given["batch_tokens"],
                optimiser=AdamW(learning_rate=rate),
                schedule=Cosine(warmup=min(steps // 10, 20)),
                dtype=dtype,
                on_step=stepped,
                save_every=20,
                **running,
            )
    if algorithm == "reward":
        library.save_scored(trained, out)
    else:
        lmrs.delta.save(tuned, out)
    with waiting("judging what was held out"):
        after = judge()
    if as_json:
        judgement = {"held_out": {"before": before, "after": after}} if held_out else {}
        print_json({"out": out, "algorithm": algorithm, "steps": steps, "metrics": told, **judgement})
        return
    last = {key: f"{value:.4g}" for key, value in (told[-1] if told else {}).items()}
    click.echo(f"{out}: " + ", ".join(f"{key} {value}" for key, value in last.items()))
    for key, value in after.items():
        click.echo(f"held out, {key}: {before[key]:.4g} to {value:.4g}")


def _unjudged() -> Mapping[str, float]:
    return {}


def _judged(objective: Any) -> Callable[[], Mapping[str, float]]:
    """What is known of the objective on what is held out, with the model as it is."""
    if not isinstance(objective, NextToken):
        return objective.judged  # type: ignore[no-any-return]

    def nats() -> Mapping[str, float]:
        parts = measured(objective.model, objective.examples, backend=backend_of(objective.model))
        return {"loss": -sum(float(part.sum()) for part in parts) / sum(map(len, parts))}

    return nats


def _drawn(policy: Any, learner: Any, max_tokens: int, seed: int) -> Callable[[], Mapping[str, float]]:
    """The mean reward of one reply to each prompt that is held out, the same draws before and after."""

    def rewarded() -> Mapping[str, float]:
        samples = rollout(
            *(policy, learner.prompts, range(len(learner.prompts))),
            max_tokens=max_tokens,
            temperature=1.0,
            seed=seed,
            iteration=0,
            tokenizer=learner.tokenizer,
        )
        return {"reward": float(scored(learner.scorer, samples).mean())}

    return rewarded


def _offline(algorithm: str, trained: Any, tuned: Any, file: Path, given: dict[str, Any]) -> Any:
    if algorithm == "sft":
        return completion(tuned, instructions(file), longest=given["longest"])
    found = library.encoded(tuned, library.read(file, unfit="drop"), longest=given["longest"], unfit="drop")
    if found.dropped:
        click.echo(f"left out: {', '.join(f'{n} {why}' for why, n in found.dropped.items())}", err=True)
    return PAIRWISE[algorithm](trained, found.pairs, given["beta"], given["loss"])


def _online(algorithm: str, policy: Any, base: Any, file: Path, given: dict[str, Any]) -> Any:
    tokenizer = tokenizer_of(base)
    items = objects(file)
    prompts, answers = [], []
    for at, item in enumerate(items):
        if not isinstance(item.get("prompt"), str | list) or not isinstance(item.get("answer", ""), str):
            raise FormatError(f"{file} item {at}: expected a prompt and, if there is one, an answer that is a text")
        prompt = item["prompt"]
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) and tokenizer.chat_template else prompt
        prompts.append(library.prompt_ids(tokenizer, turns))
        answers.append(item.get("answer"))
    common: dict[str, Any] = {"prompts": given["prompts"], "max_tokens": given["max_tokens"]}
    scorer = _scorer(base, answers, given["reward"], file)
    if algorithm == "ppo":
        setting = library.PPO(**common, **({} if given["beta"] is None else {"kl_coef": given["beta"]}))
        return library.ppo(policy, prompts, scorer, setting=setting, tokenizer=tokenizer)
    common |= {"group": given["group"]} | ({} if given["beta"] is None else {"beta": given["beta"]})
    if algorithm == "grpo":
        return library.grpo(policy, prompts, scorer, setting=library.GRPO(**common), tokenizer=tokenizer)
    return library.rloo(policy, prompts, scorer, setting=library.RLOO(**common), tokenizer=tokenizer)


def _scorer(base: Any, answers: Sequence[str | None], judge: Path | None, file: Path) -> Any:
    if judge is not None:
        return library.by_model(library.load_scored(base, judge))
    if None in answers:
        raise InputError(f"{file} item {answers.index(None)} has no answer to verify: give --reward or an answer")
    # As a word of its own: 5 is not the answer of 15, nor of 5.2.
    words = [re.compile(rf"(?<![\w.,-]){re.escape(str(answer))}(?![\w]|[.,]\w)") for answer in answers]
    return lambda samples: [float(words[sample.number].search(sample.text) is not None) for sample in samples]
