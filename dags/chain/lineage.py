"""What a task read and made, as OpenLineage datasets: Airflow's provider sends it along with the task's events.

A dataset is named by its place, `file` and WORK/<stage>, so that a day's run and the next one's are runs over the same
dataset; its fingerprint is the version. Where events go, and whether any do, is Airflow's own configuration: see
docs/observability.md.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    dataset_version_dataset,
    documentation_dataset,
    output_statistics_output_dataset,
    schema_dataset,
)

from pipeline.partitions import FOLDER
from pipeline.stages import BY_NAME
from pipeline.storage import FINGERPRINT_DIGITS

NAMESPACE = "file"
SOURCE_NAMESPACE = "msd.source"


def lineage_of(
    stages: Sequence[str], work: str, date: str, manifests: Mapping[str, Any] | None = None
) -> "OperatorLineage[Any, Any]":
    """The datasets of a task.

    Args:
        stages: what it makes.
        work: the work folder.
        date: the day, whose record has the fingerprints.
        manifests: what `msd run --json` said of the stages; else their manifests are read.
    """
    record = _read(Path(work) / FOLDER / f"{date}.json")
    fingerprints: Mapping[str, str] = record.get("fingerprints", {})
    needed = {name: None for stage in stages for name in BY_NAME[stage].inputs if name not in stages}
    tables = {table: None for stage in stages for table in BY_NAME[stage].source_tables}
    inputs = [
        InputDataset(namespace=SOURCE_NAMESPACE, name=f"{record.get('source', 'unknown')}/{table}") for table in tables
    ]
    inputs += [
        InputDataset(namespace=NAMESPACE, name=f"{work}/{name}", facets=_facets(name, fingerprints)) for name in needed
    ]
    outputs = [
        OutputDataset(
            namespace=NAMESPACE,
            name=f"{work}/{stage}",
            facets=_facets(stage, fingerprints),
            outputFacets=_counts((manifests or {}).get(stage) or _manifest(work, stage, fingerprints)),
        )
        for stage in stages
    ]
    return OperatorLineage(inputs=inputs, outputs=outputs)


def _facets(stage: str, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    facets: dict[str, Any] = {
        "documentation": documentation_dataset.DocumentationDatasetFacet(description=BY_NAME[stage].summary)
    }
    if stage in fingerprints:
        version = fingerprints[stage][:FINGERPRINT_DIGITS]
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)
    schema = BY_NAME[stage].schema
    if schema is not None:
        columns = [schema_dataset.SchemaDatasetFacetFields(name=each.name, type=str(each.type)) for each in schema]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields=columns)
    return facets


def _counts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    if "rows_ok" not in manifest:
        return {}
    counted = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=manifest["rows_ok"])
    return {"outputStatistics": counted}


def _manifest(work: str, stage: str, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    if stage not in fingerprints:
        return {}
    return _read(Path(work) / stage / fingerprints[stage][:FINGERPRINT_DIGITS] / "manifest.json")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
