"""What `/metrics` tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from publius.safety.monitor import Verdict
from publius.serve.exchange import Usage
from publius.serve.hub import Hub

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counts of one server; what engines count themselves is read off when it is asked for."""

    def __init__(self, hub: Hub) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_Engines(hub))
        self.live = Gauge("publius_replies_in_flight", "Replies under way.", registry=registry)
        self._first = Histogram(
            "publius_time_to_first_token_seconds", "To the first token.", ["model"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._gap = Histogram(
            "publius_inter_token_seconds", "Mean time between a reply's tokens.", ["model"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._whole = Histogram(
            "publius_reply_seconds",
            "From request to the reply's end.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter("publius_tokens", "Tokens of exchanges.", ["model", "kind"], registry=registry)
        self._ends = Counter(
            "publius_replies", "Replies by how they ended.", ["model", "stop_reason"], registry=registry
        )
        self._errors = Counter("publius_errors", "Requests without a reply.", ["type"], registry=registry)
        self._monitors = Counter(
            "publius_monitor_interventions",
            "What monitors flagged and blocked.",
            ["monitor", "action"],
            registry=registry,
        )

    def first(self, model: str, seconds: float) -> None:
        """A reply has begun."""
        self._first.labels(model).observe(seconds)

    def exchange(self, model: str, reason: str, usage: Usage, seconds: float) -> None:
        """A reply has ended."""
        self._ends.labels(model, reason).inc()
        self._whole.labels(model).observe(seconds)
        if usage.output > 1:
            self._gap.labels(model).observe(seconds / usage.output)
        for kind, count in (("prompt", usage.prompt), ("reused", usage.reused), ("output", usage.output)):
            self._tokens.labels(model, kind).inc(count)

    def error(self, type: str) -> None:
        """A request got no reply."""
        self._errors.labels(type).inc()

    def monitor(self, verdict: Verdict) -> None:
        """A monitor spoke up."""
        self._monitors.labels(verdict.monitor, verdict.action).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


class _Engines:
    """Gauges of every engine."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Any]:
        """As prometheus_client asks for it."""
        pages = GaugeMetricFamily(
            "publius_cache_pages_in_use", "Pages of running requests.", labels=["model"]
        )
        waiting = GaugeMetricFamily("publius_requests_waiting", "Requests without a row.", labels=["model"])
        steps = CounterMetricFamily("publius_engine_steps", "Steps of the engine.", labels=["model"])
        preempted = CounterMetricFamily("publius_preemptions", "Rows that gave way.", labels=["model"])
        for model in self._hub.models():
            stats = model.engine.stats
            pages.add_metric([model.id], stats.pages)
            waiting.add_metric([model.id], model.worker.waiting)
            steps.add_metric([model.id], stats.steps)
            preempted.add_metric([model.id], stats.preempted)
        yield from (pages, waiting, steps, preempted)
