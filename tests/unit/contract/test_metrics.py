"""The backends' metrics have names of one form, and docs/reference/metrics.md explains each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BACKENDS = ROOT / "serving" / "tritone_serving" / "backends"
EXPLAINED = set(re.findall(r"`(tritone_\w+)`", (ROOT / "docs" / "reference" / "metrics.md").read_text()))


def metrics() -> dict[str, str]:
    """Name -> kind, as the backends' sources declare them."""
    composer = (BACKENDS / "composer" / "tritone_composer_metrics.py").read_text()
    found = {
        f"tritone_composer_{name}": kind
        for name, kind in re.findall(r'metric\("(\w+)", "[^"]+", family\.(COUNTER|GAUGE)\)', composer)
    }
    ensemble = (BACKENDS / "cf_ensemble" / "tritone_cf_metrics.py").read_text()
    counters = ensemble[ensemble.index("COUNTERS:") : ensemble.index("\n}\n")]
    found |= {f"tritone_recommender_{name}": "COUNTER" for name in re.findall(r'^    "(\w+)": "', counters, re.M)}
    return found | {"tritone_recommender_catalogue_coverage": "GAUGE"}


def test_both_backends_declare_theirs() -> None:
    assert len([name for name in metrics() if name.startswith("tritone_composer_")]) >= 6
    assert len([name for name in metrics() if name.startswith("tritone_recommender_")]) >= 8


@pytest.mark.parametrize("name", metrics())
def test_a_metric_is_well_named_and_explained(name: str) -> None:
    assert name in EXPLAINED
    assert re.fullmatch(r"tritone_[a-z]+(_[a-z]+)+", name)
    assert name.endswith("_total") == (metrics()[name] == "COUNTER")
    assert not re.search(r"_(ms|us|millis|milliseconds|secs)(_|$)", name)


def test_both_count_what_they_refuse() -> None:
    assert {"tritone_composer_refused_total", "tritone_recommender_refused_total"} <= set(metrics())


def test_no_metric_is_told_elsewhere() -> None:
    for path in BACKENDS.rglob("*.py"):
        if not path.name.endswith("_metrics.py"):
            assert "MetricFamily(" not in path.read_text(), path
