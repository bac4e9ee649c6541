"""Prometheus metrics of batch work: what the last run of each stage, gate and canary came to.

A batch job is gone before anybody scrapes it, so it leaves gauges of its last run behind, each with a time to judge its
age by: as a file for node_exporter's textfile collector (MSD_METRICS_DIR), at a Pushgateway (MSD_PUSHGATEWAY), or both.
The figures of a dataset are read from its manifest: whoever finds it made already tells the same again, so that a
process killed between the two is made up for by the next run. Labels are few and of few values: no fingerprint, date,
item or user is among them. Nothing here fails a stage.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import BusyError
from pipeline.metrics_out import Figures, is_wanted, send
from pipeline.metrics_state import count_failure
from pipeline.source import Source
from pipeline.stages import BY_NAME
from pipeline.storage import Dataset, Workspace

PROJECT_VARIABLE, PROJECT = "MSD_PROJECT", "msd"
LONGEST_LABEL = 100


class Told(Protocol):
    """Whose figures these are, and the day they are of: a plan."""

    @property
    def workspace(self) -> Workspace:
        """Where the datasets lie."""

    @property
    def source(self) -> Source:
        """What they are made from."""

    @property
    def date(self) -> str:
        """YYYY-MM-DD; empty where the call named no day."""


def tell_stage(told: Told, dataset: Dataset) -> None:
    """The figures of a committed dataset; nothing where it is not made."""
    manifest = dataset.manifest if is_wanted() else None
    if manifest is not None:
        figures = _stage_figures(dataset, manifest)
        if told.date:
            figures.add("msd_stage_data_timestamp_seconds", _end_of(told.date))
        send(figures, {**_labels(told), "stage": dataset.name}, dataset.name)


def tell_slice(told: Told, name: str, number: int, *, rows: int, seconds: float) -> None:
    """That a slice of a row-wise stage was made here."""
    if is_wanted():
        figures = Figures()
        figures.add("msd_slice_rows", rows)
        figures.add("msd_slice_duration_seconds", seconds)
        figures.add("msd_slice_last_success_timestamp_seconds", time.time())
        send(figures, {**_labels(told), "stage": name, "slice": str(number)}, f"{name}.slice-{number}")


@contextmanager
def failures_told(told: Told, name: str) -> Iterator[None]:
    """Counts a failure of the stage in the block; another run at the same dataset is none."""
    try:
        yield
    except BusyError:
        raise
    except Exception:
        if is_wanted():
            figures = Figures()
            # A counter that cannot be kept must not stand before the failure it counts.
            with suppress(OSError):
                figures.add("msd_stage_failures_total", count_failure(told.workspace, told.source.name, name))
            figures.add("msd_stage_last_failure_timestamp_seconds", time.time())
            send(figures, {**_labels(told), "stage": name}, f"{name}.failures")
        raise


def tell_gate(told: Told, *, is_open: bool, **figures: float | None) -> None:
    """What the gate before an activation found.

    Args:
        told: whose gate.
        is_open: whether readers may be pointed at the new generation.
        figures: phrase_f1, phrase_f1_floor, auc_loss, auc_loss_bound; None where one was not measured.
    """
    _tell_check(told, "gate", {"is_open": is_open, **{f"{name}_ratio": value for name, value in figures.items()}})


def tell_canary(told: Told, *, is_within_bounds: bool, **figures: float | None) -> None:
    """What the daily check of the online store found.

    Args:
        told: whose store.
        is_within_bounds: whether every bound held.
        figures: by the names in `metrics_out.METRICS` without `msd_canary_`; None where one was not measured.
    """
    _tell_check(told, "canary", {"is_within_bounds": is_within_bounds, **figures})


def _tell_check(told: Told, check: str, values: Mapping[str, float | None]) -> None:
    if is_wanted():
        figures = Figures()
        for name, value in {**values, "last_run_timestamp_seconds": time.time()}.items():
            figures.add(f"msd_{check}_{name}", value)
        send(figures, _labels(told), check)


def _labels(told: Told) -> dict[str, str]:
    """The labels every series has."""
    project = os.environ.get(PROJECT_VARIABLE) or PROJECT
    return {"project": project[:LONGEST_LABEL], "source": told.source.name[:LONGEST_LABEL]}


def _stage_figures(dataset: Dataset, manifest: Mapping[str, Any]) -> Figures:
    figures = Figures()
    for outcome in ("ok", "rejected", "skipped"):
        figures.add("msd_stage_rows", manifest[f"rows_{outcome}"], outcome=outcome)
    figures.add("msd_stage_duration_seconds", manifest.get("seconds"))
    figures.add("msd_stage_size_bytes", _size(dataset.folder))
    figures.add("msd_stage_last_success_timestamp_seconds", _seconds_of(manifest.get("created_at")))
    details = manifest["details"]
    _add_tokens(figures, details)
    _add_texts(figures, details)
    if dataset.name == "student":
        for average in ("micro", "macro"):
            figures.add("msd_student_phrase_f1_ratio", details.get(f"f1_{average}"), average=average)
    if "online_bytes" in details:
        _add_publication(figures, details)
    if dataset.name == "report":
        report = json.loads((dataset.folder / "report.json").read_text(encoding="utf-8"))
        for arm in report["arms"]:
            figures.add("msd_arm_auc_ratio", arm["auc"], arm=arm["name"])
    assert dataset.name in BY_NAME, "labels are names of stages"
    return figures


def _add_tokens(figures: Figures, details: Mapping[str, Any]) -> None:
    """Tokens of the work itself: what was kept from earlier runs was not read or generated again."""
    generated, read = details.get("output_tokens_generated"), details.get("tokens_read")
    figures.add("msd_stage_tokens", details.get("prompt_tokens_sent"), kind="prompt")
    figures.add("msd_stage_tokens", generated, kind="output")
    figures.add("msd_stage_tokens", read, kind="read")
    figures.add("msd_stage_tokens", details.get("train_tokens"), kind="train")
    rate = details.get("tokens_per_second")
    for tokens, seconds in ((generated, details.get("generating_seconds")), (read, details.get("reading_seconds"))):
        if tokens and seconds:
            rate = tokens / seconds
    figures.add("msd_stage_tokens_per_second", rate)


def _add_texts(figures: Figures, details: Mapping[str, Any]) -> None:
    texts, read = details.get("texts"), details.get("texts_read", 0)
    if isinstance(texts, int | float):
        figures.add("msd_stage_texts", texts - read, origin="kept")
        figures.add("msd_stage_texts", read, origin="read")


def _add_publication(figures: Figures, details: Mapping[str, Any]) -> None:
    figures.add("msd_publication_online_bytes", details["online_bytes"])
    for entity, keys in details.get("online_keys", {}).items():
        figures.add("msd_publication_keys", keys, entity=entity)
    coverage = details.get("checks", {}).get("coverage", {})
    figures.add("msd_publication_coverage_ratio", coverage.get("items"), entity="item")
    if coverage.get("users"):
        figures.add("msd_publication_coverage_ratio", coverage["users_with_vector"] / coverage["users"], entity="user")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _seconds_of(moment: str | None) -> float | None:
    return None if moment is None else datetime.fromisoformat(moment).timestamp()


def _end_of(day: str) -> float:
    following = date.fromisoformat(day) + timedelta(days=1)
    return datetime(following.year, following.month, following.day, tzinfo=UTC).timestamp()
