"""The report's digest sees results and nothing else."""

import copy
import json

import pytest
from made_up_report import made_up_datasets

from msd_models.report import write_report
from msd_models.report_digest import PUBLISHED, RESULTS, report_digest
from pipeline.config import Report

CONFIG = Report(bootstrap_rounds=60, shown_items=3)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    datasets = made_up_datasets(tmp_path_factory.mktemp("work"), num_users=20)
    folder = tmp_path_factory.mktemp("report") / "0123"
    write_report(CONFIG, folder, **datasets)
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def leaves(value, path=()):
    """Every number and text of a report, with the names that lead to it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*path, number))
    else:
        yield path, value


def changed(report, path, value):
    """The report with another value in one place."""
    other = copy.deepcopy(report)
    place = other
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return other


def test_the_report_holds_its_own_digest_and_is_read_back_to_the_same(report):
    assert report["digest"] == report_digest(report)
    assert len(report["digest"]) == 64


def test_times_rates_and_what_the_store_held_before_do_not_count(report):
    # One place of each kind: what stands at another number of the same list is treated alike.
    kinds = {tuple(name if isinstance(name, str) else 0 for name in path): path for path, _ in leaves(report)}
    unseen = {
        kind for kind, path in kinds.items() if report_digest(changed(report, path, "another")) == report["digest"]
    }
    times = {kind for kind in unseen if str(kind[-1]).endswith(("seconds", "_per_second"))}
    assert {kind[-1] for kind in times} >= {"train_seconds", "samples_per_second", "seconds"}
    assert {kind[0] for kind in unseen - times} == {"created_at", "digest", "publish"}
    assert not any(kind[0] == "publish" and kind[2] in PUBLISHED for kind in unseen)
    assert report.keys() - {"created_at", "digest", "publish"} == set(RESULTS)


def test_every_metric_counts_and_its_last_bits_do_not(report):
    path, value = next((path, value) for path, value in leaves(report["arms"]) if path[-1] == "auc")
    for change, is_same in ((1e-12, True), (1e-6, False)):
        other = changed(report, ("arms", *path), value + change)
        assert (report_digest(other) == report["digest"]) is is_same
    assert report_digest({"arms": [-0.0]}) == report_digest({"arms": [1e-15]}) == report_digest({"arms": [0.0]})


def test_the_same_datasets_give_the_same_digest_in_another_folder(tmp_path, report):
    datasets = made_up_datasets(tmp_path / "elsewhere", num_users=20)
    outcome = write_report(CONFIG, tmp_path / "elsewhere" / "report" / "4567", **datasets)
    assert outcome.details["digest"] == report["digest"]
    fewer = made_up_datasets(tmp_path / "fewer", num_users=19)
    outcome = write_report(CONFIG, tmp_path / "fewer" / "report" / "4567", **fewer)
    assert outcome.details["digest"] != report["digest"]
