"""Every metric there is, and the ways out: a file the textfile collector reads, and a push to a Pushgateway."""

import hashlib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from prometheus_client import CollectorRegistry, generate_latest, pushadd_to_gateway
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import basic_auth_handler, default_handler
from prometheus_client.registry import Collector

from pipeline.progress import note
from pipeline.storage import write_atomically

FOLDER_VARIABLE = "MSD_METRICS_DIR"
GATEWAY_VARIABLE = "MSD_PUSHGATEWAY"
PUSH_SECONDS = 3.0
JOB = "msd"

METRICS: dict[str, str] = {
    "msd_stage_rows": "Rows of the stage's dataset, by outcome: ok, rejected or skipped.",
    "msd_stage_duration_seconds": "How long the run took that committed the dataset.",
    "msd_stage_size_bytes": "Bytes of the dataset's files.",
    "msd_stage_last_success_timestamp_seconds": "When the dataset was committed.",
    "msd_stage_data_timestamp_seconds": "End of the day the dataset is as of; now less this is its freshness.",
    "msd_stage_tokens": "Tokens the model went through, by kind: prompt, output, read or train.",
    "msd_stage_tokens_per_second": "Tokens generated, read or trained on a second, of one process.",
    "msd_stage_texts": "Texts that were needed, by origin: kept from earlier runs, or read by the model.",
    "msd_stage_failures_total": "Runs of the stage that failed; a killed process is not among them.",
    "msd_stage_last_failure_timestamp_seconds": "When the stage last failed.",
    "msd_slice_rows": "Rows of one slice of a row-wise stage.",
    "msd_slice_duration_seconds": "How long the slice took.",
    "msd_slice_last_success_timestamp_seconds": "When the slice was made.",
    "msd_student_phrase_f1_ratio": "The student's phrase F1 against its teacher, micro or macro averaged.",
    "msd_arm_auc_ratio": "Test AUC of an arm of the report.",
    "msd_publication_online_bytes": "Memory the generation takes on the Redis server.",
    "msd_publication_keys": "Keys of the generation, by entity: item or user.",
    "msd_publication_coverage_ratio": "Share of the items, or of the active users, that have a vector online.",
    "msd_gate_is_open": "1 where the last gate let the generation through, 0 where it was closed.",
    "msd_gate_phrase_f1_ratio": "The student's phrase F1 the gate read.",
    "msd_gate_phrase_f1_floor_ratio": "The least phrase F1 the gate lets through.",
    "msd_gate_auc_loss_ratio": "AUC the canary model loses in the new space against the active one; below 0 it gains.",
    "msd_gate_auc_loss_bound_ratio": "The most AUC the gate lets the canary model lose.",
    "msd_gate_last_run_timestamp_seconds": "When the gate was last asked.",
    "msd_canary_is_within_bounds": "1 where every bound of the last canary held, else 0.",
    "msd_canary_freshness_seconds": "Age of the active generation's data when the canary looked.",
    "msd_canary_freshness_bound_seconds": "The oldest it may be.",
    "msd_canary_coverage_ratio": "Share of the keys that have a vector online.",
    "msd_canary_coverage_floor_ratio": "The least coverage.",
    "msd_canary_hit_rate_ratio": "Share of the texts found among the kept vectors.",
    "msd_canary_hit_rate_floor_ratio": "The least hit rate.",
    "msd_canary_compared_rows": "Rows compared, online with offline.",
    "msd_canary_unequal_rows": "Those of them that differed.",
    "msd_canary_last_run_timestamp_seconds": "When the canary last looked.",
}
"""Name → help. Everything is a gauge of the last run but the names that end in _total."""


@dataclass
class Figures:
    """Values of metrics with the labels that are their own."""

    values: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    def add(self, name: str, value: Any, **labels: str) -> None:
        """Adds one value; None and what is no number is left out, as absent says more than zero."""
        assert name in METRICS, f"{name} is not in METRICS"
        if isinstance(value, int | float) and math.isfinite(value):
            self.values.append((name, labels, float(value)))


def is_wanted() -> bool:
    """Whether there is anywhere for metrics to go."""
    return bool(os.environ.get(FOLDER_VARIABLE) or os.environ.get(GATEWAY_VARIABLE))


def send(figures: Figures, labels: Mapping[str, str], subject: str) -> None:
    """Writes and pushes the figures; where that cannot be done, a warning says so and the stage goes on.

    Args:
        figures: of one subject.
        labels: of every series; the grouping key at a Pushgateway.
        subject: what the file is named after, beside the labels.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(figures, labels))
    folder, gateway = os.environ.get(FOLDER_VARIABLE), os.environ.get(GATEWAY_VARIABLE)
    if folder:
        try:
            write_atomically(Path(folder) / file_name(labels, subject), generate_latest(registry))
        except OSError as error:
            note(f"metrics: cannot write to {FOLDER_VARIABLE}={folder}: {error}", "warning")
    if gateway:
        try:
            _push(gateway, registry, labels)
        # An address that is none, a server that is gone, slow, or answers nonsense.
        except (OSError, ValueError, HTTPException) as error:
            note(f"metrics: cannot push to {gateway.rpartition('@')[2]}: {error}", "warning")


def file_name(labels: Mapping[str, str], subject: str) -> str:
    """One file a subject: letters of a source that a file name should not have give way to a digest."""
    name = "-".join((JOB, labels["project"], labels["source"], subject))
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return f"{plain}.prom" if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.prom"


def _push(gateway: str, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
    """Adds to what the gateway has of these labels: a success leaves the count of failures alone."""
    address = urlsplit(gateway if "://" in gateway else f"http://{gateway}")
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError("an address like http://127.0.0.1:9091 is wanted")
    plain = urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))

    def handler(url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes) -> Any:
        if address.username is None:
            return default_handler(url, method, timeout, headers, data)
        user, password = unquote(address.username), unquote(address.password or "")
        return basic_auth_handler(url, method, timeout, headers, data, user, password)

    key = {name: value for name, value in labels.items() if value}
    pushadd_to_gateway(plain, JOB, registry, key, timeout=PUSH_SECONDS, handler=handler)


class _Collector(Collector):
    """The figures as families, every sample with the common labels."""

    def __init__(self, figures: Figures, labels: Mapping[str, str]) -> None:
        self.figures = figures
        self.labels = dict(labels)

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for name, own, value in self.figures.values:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            names = [*self.labels, *own]
            family = families.setdefault(name, kind(name, METRICS[name], labels=names))
            family.add_metric([*self.labels.values(), *own.values()], value)  # type: ignore[attr-defined]
        return families.values()
