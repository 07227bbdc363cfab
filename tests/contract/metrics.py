"""Write docs/metrics.md from the registry of the code: `make reference`."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
PACKAGES = ("common", "consent", "campaign", "dispatch", "inbound")
OWNERS: Mapping[str, str] = {f"sms_{name}_": f"{name}-svc" for name in PACKAGES if name != "common"}


class Metric(NamedTuple):
    """A row of the page. `name`: as Prometheus stores it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str

    @property
    def unit(self) -> str:
        return self.name.removesuffix("_total").rpartition("_")[2] if self.kind != "counter" else ""

    @property
    def service(self) -> str:
        return next((owner for prefix, owner in OWNERS.items() if self.name.startswith(prefix)), "all")


def every_metric() -> Iterator[MetricWrapperBase]:
    """Yield each metric that a module of ours makes."""
    for package in PACKAGES:
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if ".migrations" not in module.name and not module.name.endswith(".__main__"):
                importlib.import_module(module.name)
    # the registry's public face shows no labels before a metric has been used
    for collector in set(REGISTRY._collector_to_names):
        if isinstance(collector, MetricWrapperBase):
            yield collector


def metrics() -> list[Metric]:
    """Return the metrics by name."""
    found = []
    for metric in every_metric():
        [family] = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append(Metric(name, family.type, tuple(metric._labelnames), family.documentation))
    return sorted(found)


INTRODUCTION = """# Metrics

<!-- written by `make reference` from the code: change the help of a metric where the metric is made -->

Each process shows its metrics at `/metrics`, in every role. A histogram has `_bucket`, `_sum` and `_count`. No label
has a person, a campaign or a path: `route` is a template, `unmatched` where no route has the path. The scraper adds
`job`, `namespace` and `pod`. Python's own metrics (`python_`, `process_`) come with the client library.
Where traces are kept, each bucket names one ([exemplars](traces.md#from-a-metric-to-a-trace)).
[The runbook](runbook.md) says which of them alert, and `deploy/prometheus/placet.yaml` when.
"""
HEAD = "| Metric | Kind | Unit | Labels | Help |\n|---|---|---|---|---|"


def page() -> str:
    """Return the whole page."""
    parts, found = [INTRODUCTION], metrics()
    for service in ("all", *OWNERS.values()):
        rows = [
            f"| `{each.name}` | {each.kind} | {each.unit} | {', '.join(f'`{label}`' for label in each.labels)}"
            f" | {each.help} |"
            for each in found
            if each.service == service
        ]
        title = "Every service" if service == "all" else service
        parts.append("\n".join([f"\n## {title}\n", HEAD, *rows, ""]))
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
