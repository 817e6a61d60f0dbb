"""What one request, and all of them together, may take."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most of everything a client may ask for; more is refused with status 400, 413 or 429.

    ``header_bytes`` and ``body_bytes`` of a request and ``body_seconds`` to send it; ``prompts`` in it, ``choices`` (n,
    best_of) of each, ``tokens`` of each completion, ``logprobs`` a token, ``stops``; ``texts`` to embed, rerank, score
    or tokenize, ``messages`` of a conversation and ``tools`` of it. ``requests`` completions run or wait at once,
    ``work`` calls of the other kinds; ``seconds`` are the time a completion has, after which it ends as it is.
    ``retry_seconds`` is what one turned away is told to wait.
    """

    header_bytes: int = 32 << 10
    body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    prompts: int = 64
    choices: int = 16
    tokens: int = 4096
    logprobs: int = 20
    stops: int = 16
    texts: int = 512
    messages: int = 512
    tools: int = 128
    requests: int = 256
    work: int = 64
    seconds: float = 600.0
    retry_seconds: int = 1
