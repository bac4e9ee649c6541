"""The dashboard, the alerts and the page speak of the metrics there are, and of no others."""

import json
import re
from pathlib import Path

from pipeline.metrics_out import METRICS

ROOT = Path(__file__).parents[2]


def named_in(text):
    return set(re.findall(r"\bmsd_(?:stage|slice|student|arm|publication|gate|canary)_[a-z0-9_]+", text))


def test_dashboard_rules_and_page_speak_of_the_metrics_there_are():
    dashboard = (ROOT / "docker/grafana/msd.json").read_text()
    rules = (ROOT / "docker/prometheus/rules.yml").read_text()
    page = (ROOT / "docs/observability.md").read_text()
    assert named_in(dashboard) == set(METRICS), "every metric has a panel, and every panel a metric"
    assert named_in(rules) <= set(METRICS)
    assert {name for name in METRICS if f"`{name}`" in page} == set(METRICS)


def test_the_dashboard_is_one_that_grafana_reads():
    dashboard = json.loads((ROOT / "docker/grafana/msd.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for target in panel.get("targets", []):
            query = target["expr"]
            for opening, closing in ("()", "{}", "[]"):
                assert query.count(opening) == query.count(closing), query
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)), "no two panels lie on one another"
