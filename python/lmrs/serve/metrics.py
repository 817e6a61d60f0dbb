"""What Prometheus is told."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from lmrs.engine import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server; those of its engine are read when asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._registry = CollectorRegistry()
        self.requests = Counter("lmrs_requests", "Requests.", ["route", "status"], registry=self._registry)
        self.seconds = Histogram(
            "lmrs_request_seconds", "From request to answer.", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self.first_token = Histogram(
            "lmrs_first_token_seconds", "From request to first token.", buckets=_SECONDS, registry=self._registry
        )
        self.prompt_tokens = Counter("lmrs_prompt_tokens", "Tokens read.", registry=self._registry)
        self._registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """What the engine is doing."""
        load = self._engine.load
        yield GaugeMetricFamily("lmrs_running", "Completions being computed.", load.running)
        yield GaugeMetricFamily("lmrs_waiting", "Completions that wait for room.", load.waiting)
        yield GaugeMetricFamily("lmrs_cached_bytes", "Keys and values of completions.", load.cached_bytes)
        yield GaugeMetricFamily("lmrs_prefix_bytes", "Keys and values of prompts kept.", load.prefix_bytes)
        yield CounterMetricFamily("lmrs_generated_tokens", "Tokens written.", load.tokens)
        yield CounterMetricFamily("lmrs_steps", "Steps of the engine.", load.steps)

    def page(self) -> bytes:
        """The text of Prometheus."""
        return generate_latest(self._registry)
