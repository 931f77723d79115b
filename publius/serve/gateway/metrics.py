"""What the gateway counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from publius.serve.gateway.pool import Backend

__all__ = ["GatewayMetrics"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class GatewayMetrics:
    """Counts of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        name = "publius_gateway_"
        self.requests = Counter(
            f"{name}requests", "Requests that a backend answered.", ["backend", "status"], registry=registry
        )
        self.retries = Counter(
            f"{name}retries",
            "Requests taken from a backend before it had said a byte.",
            ["backend"],
            registry=registry,
        )
        self.moved = Counter(
            f"{name}moved",
            "Requests that went elsewhere because their own backend was full.",
            registry=registry,
        )
        self.unanswered = Counter(f"{name}unanswered", "Requests that no backend took.", registry=registry)
        self.broken = Counter(
            f"{name}broken", "Answers that a backend did not finish.", ["backend"], registry=registry
        )
        self.gone = Counter(f"{name}gone", "Clients that left before the end.", registry=registry)
        self.first_byte = Histogram(
            f"{name}first_byte_seconds", "Until a backend's first byte.", buckets=_SECONDS, registry=registry
        )
        self._up = Gauge(f"{name}up", "Whether a backend takes requests.", ["backend"], registry=registry)
        self._in_flight = Gauge(f"{name}in_flight", "Requests under way.", ["backend"], registry=registry)

    def text(self, backends: Sequence[Backend]) -> bytes:
        """The page that Prometheus reads."""
        for backend in backends:
            self._up.labels(backend.name).set(backend.up)
            self._in_flight.labels(backend.name).set(backend.in_flight)
        return generate_latest(self._registry)
