"""`lmrs ppl`: how well a model predicts a text."""

from pathlib import Path

import click
import numpy as np

from lmrs.cli import options
from lmrs.cli.as_json import print_json
from lmrs.cli.running import open_engine
from lmrs.engine import DType
from lmrs.eval import PROTOCOLS, Comparison, Protocol, compare
from lmrs.terminal import facts, stages, waiting

EXAMPLES = """\b
Examples:
  lmrs ppl smollm2.gguf wiki.test.txt
  lmrs ppl smollm2.gguf wiki.test.txt --window 512 --stride 256 --json
  head -c 4000 book.txt | lmrs ppl gpt2 -
  lmrs ppl smollm2.gguf wiki.test.txt --dtype int8 --against smollm2.gguf
"""


@click.command(epilog=EXAMPLES)
@options.model
@click.argument("file")
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default="rolling",
    show_default=True,
    help="How a text longer than the context is cut into windows.",
)
@click.option("--window", type=int, help="Tokens in a window [default: the model's context]")
@click.option("--stride", type=int, help="Tokens from one window to the next, for strided protocols.")
@click.option("--top-k", type=int, help="With --json, also the so many likeliest tokens at each place.")
@click.option("--rank", is_flag=True, help="Also the rank of each token, 1 being the likeliest.")
@click.option("--entropy", is_flag=True, help="Also the entropy of each prediction, in nats.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="OTHER",
    help="Also how far MODEL is from this one, held in f32: KL divergence, ratio of perplexities, agreement.",
)
@options.delta
@options.dtype
@options.as_json
def ppl(
    *,
    model: Path,
    file: str,
    protocol: Protocol,
    window: int | None,
    stride: int | None,
    top_k: int | None,
    rank: bool,
    entropy: bool,
    against: Path | None,
    delta: Path | None,
    dtype: DType | None,
    as_json: bool,
) -> None:
    """Score the text in FILE (- for standard input): perplexity by token, word and byte, and bits per byte.

    With --json: one Score, {"protocol", "tokens", "words", "bytes", "sum_logprob", "perplexity", "word_perplexity",
    "byte_perplexity", "bits_per_byte", "token_logprobs", "token_ranks", "token_entropies", "top_tokens",
    "top_logprobs"}; the last four are null unless asked for. With --against: one Comparison, {"protocol", "tokens",
    "perplexity", "reference_perplexity", "perplexity_ratio", "kl", "kl_error", "kl_median", "kl_max", "kl_percentiles",
    "same_top", "delta_p", "delta_p_rms", "token_kl", "token_logprobs", "reference_logprobs"}.
    """
    text = options.text_of(file)
    engine = open_engine(model, delta=delta, dtype=dtype)
    if against is not None:
        if top_k is not None or rank or entropy:
            raise click.UsageError("--against says how far two models are apart; --top-k, --rank and --entropy do not")
        reference = open_engine(against)
        with stages() as told:
            comparison = compare(
                engine,
                reference,
                text,
                protocol=protocol,
                window=window,
                stride=stride,
                on_done=lambda done, total: told(f"comparing with {against.name}", done, total),
            )
        _show(comparison, as_json=as_json)
        return
    with waiting(f"scoring {len(text):,} characters"):
        score = engine.score(
            text, protocol=protocol, window=window, stride=stride, top_k=top_k, rank=rank, entropy=entropy
        )
    if as_json:
        print_json(score)
        return
    shown = {
        "protocol": score.protocol,
        "tokens": score.tokens,
        "words": score.words,
        "bytes": score.bytes,
        "perplexity": f"{score.perplexity:.4f}",
        "word perplexity": f"{score.word_perplexity:.4f}",
        "byte perplexity": f"{score.byte_perplexity:.4f}",
        "bits per byte": f"{score.bits_per_byte:.4f}",
    }
    if score.token_ranks is not None:
        shown["median rank"] = f"{np.median(score.token_ranks):.0f}"
        shown["likeliest token right"] = f"{(score.token_ranks == 1).mean():.1%}"
    if score.token_entropies is not None:
        shown["mean entropy"] = f"{score.token_entropies.mean():.4f} nats"
    facts(shown)


def _show(comparison: Comparison, *, as_json: bool) -> None:
    if as_json:
        print_json(comparison)
        return
    shown = {
        "protocol": comparison.protocol,
        "tokens": comparison.tokens,
        "perplexity": f"{comparison.perplexity:.4f}, of the reference {comparison.reference_perplexity:.4f}",
        "ratio of perplexities": f"{comparison.perplexity_ratio:.5f} ({comparison.perplexity_ratio - 1:+.2%})",
        "KL divergence": f"{comparison.kl:.6f} ± {comparison.kl_error:.6f} nats a token",
        "median KL": f"{comparison.kl_median:.6f}",
    }
    shown |= {f"{at} % of tokens below": f"{kl:.6f}" for at, kl in comparison.kl_percentiles.items()}
    shown["largest KL"] = f"{comparison.kl_max:.6f}"
    shown["same likeliest token"] = f"{comparison.same_top:.2%}"
    shown["change of the token's p"] = f"{comparison.delta_p:+.3%}, RMS {comparison.delta_p_rms:.3%}"
    facts(shown)
