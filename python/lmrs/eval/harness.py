"""lmrs as a model of lm-evaluation-harness.

    python -m lmrs.eval.harness --model lmrs --model_args path=DIR --tasks piqa

Importing this module registers the model `lmrs`; run as a program it is then the harness's own command line. Arguments
of the model: `path`, and optionally `delta` (a directory of one) and `dtype`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmrs
from lmrs.delta import load as load_delta
from lmrs.eval.tasks import scored

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError:
    raise lmrs.InputError("lmrs.eval.harness needs lm-evaluation-harness: pip install lmrs[harness]") from None


@register_model("lmrs")
class Harness(LM):  # type: ignore[misc]
    """What the harness asks of a model: ``loglikelihood``, ``loglikelihood_rolling`` and ``generate_until``."""

    def __init__(self, path: str, delta: str | None = None, dtype: str = "f32", **_: Any) -> None:
        super().__init__()
        model = lmrs.load(path)
        self.engine = lmrs.Engine(model if delta is None else load_delta(model, Path(delta)), dtype=dtype)  # type: ignore[arg-type]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log p of each continuation, and whether greedy decoding writes it."""
        return [(one.sum_logprob, one.greedy) for one in scored(self.engine, [one.args for one in requests])]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log p of each whole text, each of its tokens once."""
        return [score.sum_logprob for score in self.engine.score([request.args[0] for request in requests])]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The continuation of each prompt up to one of its stop strings; prompts with the same options run together."""
        together: dict[str, list[int]] = {}
        for at, request in enumerate(requests):
            together.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(at)
        found: dict[int, str] = {}
        for options, places in together.items():
            texts = self._generate([requests[at].args[0] for at in places], json.loads(options))
            found |= zip(places, texts, strict=True)
        return [found[at] for at in range(len(requests))]

    def _generate(self, contexts: list[str], options: dict[str, Any]) -> list[str]:
        until = options.get("until", [])
        limit, most = self.engine.config.context, options.get("max_gen_toks", 256)
        prompts = [encoding.ids for encoding in self.engine.tokenizer.encode(contexts)]
        sampled = bool(options.get("do_sample")) and options.get("temperature", 1.0) > 0
        completions = self.engine.generate(
            prompts if limit is None else [ids[-(limit - most) :] for ids in prompts],
            max_tokens=most,
            stop=[until] if isinstance(until, str) else list(until),
            temperature=options.get("temperature", 1.0) if sampled else 0.0,
            top_k=options.get("top_k", 0) if sampled else 0,
            top_p=options.get("top_p", 1.0) if sampled else 1.0,
        )
        return [completion.text for completion in completions]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
