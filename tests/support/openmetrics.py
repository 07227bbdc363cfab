"""The page of `/metrics`, read as a strict scraper does."""

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families


def families(page: str) -> list[Metric]:
    """Return the families of an OpenMetrics page. Raises ValueError where the page is none."""
    return list(text_string_to_metric_families(page))  # type: ignore[no-untyped-call]
