"""One logger and one set of metrics for all functions but the gate."""

from __future__ import annotations

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from marketplace_constructs.domain.metrics import METRICS_NAMESPACE, METRICS_SERVICE, metrics_dimensions

logger = Logger(service=METRICS_SERVICE)
metrics = Metrics(namespace=METRICS_NAMESPACE, service=METRICS_SERVICE)


def tell_of(sale: str) -> None:
    """Say whose metrics these are; once per function instance, before the first is told."""
    # A process that plays several instances tells of several sales, one after another.
    metrics.clear_default_dimensions()
    metrics.clear_metrics()
    metrics.set_default_dimensions(**metrics_dimensions(sale))


def count(name: str, value: int = 1) -> None:
    """Count something that happened; the metric's name is public, and alarms rest on it."""
    metrics.add_metric(name=name, unit=MetricUnit.Count, value=value)


def gauge(name: str, value: float) -> None:
    """Tell how much there is of something now, in seconds where it is a time; names as for ``count``."""
    metrics.add_metric(name=name, unit=MetricUnit.NoUnit, value=value)
