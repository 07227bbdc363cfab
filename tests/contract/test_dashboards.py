"""The dashboards ask about metrics and labels that there are, say what is seen in which unit, and show what alerts."""

import json
import re

import pytest

from tests.contract.dashboards import DASHBOARDS, UNITS, Dashboard, Panel, written
from tests.contract.test_alerts import GROUPED, OF_THE_SCRAPER, RULES, SELECTED, known

PANELS = [(each, panel) for each in DASHBOARDS for panel in each.panels]
SECONDS = re.compile(r"_seconds(?:_bucket)?\b")


@pytest.mark.parametrize(("dashboard", "panel"), PANELS, ids=lambda it: str(getattr(it, "title", it)))
def test_a_panel_asks_about_metrics_and_labels_that_there_are(dashboard: Dashboard, panel: Panel) -> None:
    metrics = known()
    for expr, legend in panel.asked.items():
        asked = SELECTED.findall(expr)
        assert asked
        assert {name for name, _ in asked} <= metrics.keys()
        labels = set.intersection(*(metrics[name] for name, _ in asked)) | OF_THE_SCRAPER
        selected = {label for _, inside in asked for label in re.findall(r"(\w+)(?:=|!=|=~|!~)\"", inside)}
        grouped = {label.strip() for inside in GROUPED.findall(expr) for label in inside.split(",")}
        shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
        assert selected | grouped <= labels
        assert shown == grouped - {"le"}, "the legend tells the series of a graph apart"


@pytest.mark.parametrize(("dashboard", "panel"), PANELS, ids=lambda it: str(getattr(it, "title", it)))
def test_a_panel_has_a_unit_that_fits_and_says_what_is_seen(dashboard: Dashboard, panel: Panel) -> None:
    assert panel.unit in UNITS
    assert panel.description.endswith(".")
    for expr in panel.asked:
        whole = expr.startswith(("histogram_quantile", "max", "time()")) and SECONDS.search(expr) is not None
        assert (panel.unit == "s") == whole
        assert ("rate(" in expr and "/" not in expr and not whole) == (panel.unit in ("cps", "reqps"))


def test_each_metric_of_an_alert_is_on_a_dashboard() -> None:
    shown = {bare(name) for _, panel in PANELS for expr in panel.asked for name, _ in SELECTED.findall(expr)}
    alerting = {bare(name) for rule in RULES for name, _ in SELECTED.findall(rule["expr"]) if name.startswith("sms_")}
    assert alerting - shown == set()


def test_a_graph_of_durations_shows_exemplars_and_no_other_does() -> None:
    """A graph has the unit of its query: the seconds of an exemplar mean nothing on a graph of a share."""
    graphs = [graph for text in written().values() for graph in json.loads(text)["panels"]]
    asked = [(graph["fieldConfig"]["defaults"]["unit"], each) for graph in graphs for each in graph["targets"]]
    shows = {each["expr"]: (unit, each["datasource"]["type"]) for unit, each in asked if each.get("exemplar")}
    assert shows.keys() == {each["expr"] for unit, each in asked if "_bucket" in each["expr"] and unit == "s"}
    assert set(shows.values()) == {("s", "prometheus")}


def bare(name: str) -> str:
    return re.sub("_(bucket|count|sum)$", "", name)


def test_the_files_are_those_of_the_code_and_grafana_finds_each_once() -> None:
    for path, text in written().items():
        assert path.read_text(encoding="utf-8") == text, "run `make manifests`"
    models = [json.loads(text) for text in written().values()]
    assert len({each["uid"] for each in models}) == len({each["title"] for each in models}) == len(models)
    for each in models:
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in each["panels"]]
        assert len(set(places)) == len({panel["title"] for panel in each["panels"]}) == len(places)
        assert max(x for x, _ in places) + 8 <= 24
