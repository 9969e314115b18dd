"""What Prometheus can ask of a server."""

from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCIES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ModelMeters(NamedTuple):
    """The meters of one model."""

    images: Counter
    unreadable: Counter
    batch_images: Histogram
    waiting: Gauge


class Meters:
    """The meters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "product_mil_requests", "Requests", ["path", "status"], registry=registry
        )
        self.latency = Histogram(
            "product_mil_request_seconds",
            "From a request's headers to the end of its answer",
            ["path"],
            buckets=LATENCIES_S,
            registry=registry,
        )
        self._of_models = ModelMeters(
            Counter("product_mil_images", "Images of answers", ["model"], registry=registry),
            Counter(
                "product_mil_unreadable_images",
                "Images that were not used: unreadable, or more than the model takes",
                ["model"],
                registry=registry,
            ),
            Histogram(
                "product_mil_batch_images",
                "Images in a call of the model",
                ["model"],
                buckets=BATCHES,
                registry=registry,
            ),
            Gauge(
                "product_mil_waiting_images",
                "Images that wait for their turn",
                ["model"],
                registry=registry,
            ),
        )

    def of_model(self, name: str) -> ModelMeters:
        """The meters with this label."""
        images, unreadable, batch_images, waiting = self._of_models
        return ModelMeters(
            images.labels(name),
            unreadable.labels(name),
            batch_images.labels(name),
            waiting.labels(name),
        )
