"""Lineage of tasks: every stage's datasets as events that OpenLineage's own client writes and anybody can read."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.stages import BY_NAME, STAGES

pytestmark = pytest.mark.airflow

ROOT = Path(__file__).parents[2]
DAY = "2024-01-10"
EMIT = """
import json, sys, uuid
from datetime import UTC, datetime
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from openlineage.client.transport.file import FileConfig, FileTransport
from dags.chain.lineage import lineage_of

asked = json.load(sys.stdin)
client = OpenLineageClient(transport=FileTransport(FileConfig(log_file_path=asked["path"], append=True)))
for call in asked["calls"]:
    lineage = lineage_of(**call)
    client.emit(RunEvent(
        eventType=RunState.COMPLETE, eventTime=datetime.now(UTC).isoformat(), producer="https://example.org/msd",
        run=Run(runId=str(uuid.uuid4())), job=Job(namespace="msd", name="dag." + call["stages"][0]),
        inputs=lineage.inputs, outputs=lineage.outputs,
    ))
"""


def emitted(path: Path, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EMIT],
        input=json.dumps({"path": str(path / "events.jsonl"), "calls": calls}),
        env=os.environ | {"AIRFLOW_HOME": str(path), "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]


def test_every_stage_names_what_it_reads_and_makes(tmp_path: Path) -> None:
    work = tmp_path / "wörk of/mine"
    fingerprints = {name: f"{number:064x}" for number, name in enumerate(BY_NAME, start=10**18)}
    (work / "partitions").mkdir(parents=True)
    record = {"source": "shop", "fingerprints": fingerprints}
    (work / "partitions" / f"{DAY}.json").write_text(json.dumps(record))
    made = work / "items" / fingerprints["items"][:16]
    made.mkdir(parents=True)
    (made / "manifest.json").write_text(json.dumps({"rows_ok": 900}))
    calls: list[dict[str, Any]] = [{"stages": [each.name], "work": str(work), "date": DAY} for each in STAGES]
    calls.append({"stages": ["items", "interactions"], "work": str(work), "date": DAY})
    calls.append({"stages": ["users"], "work": str(work), "date": DAY, "manifests": {"users": {"rows_ok": 7}}})
    events = emitted(tmp_path, calls)

    assert len(events) == len(calls)
    for stage, event in zip(STAGES, events, strict=False):
        (output,) = event["outputs"]
        assert (output["namespace"], output["name"]) == ("file", f"{work}/{stage.name}")
        assert output["facets"]["version"]["datasetVersion"] == fingerprints[stage.name][:16]
        if stage.schema is not None:
            assert [column["name"] for column in output["facets"]["schema"]["fields"]] == stage.schema.names
        read = {each["name"] for each in event["inputs"] if each["namespace"] == "file"}
        assert read == {f"{work}/{name}" for name in stage.inputs}
        raw = {each["name"] for each in event["inputs"] if each["namespace"] == "msd.source"}
        assert raw == {f"shop/{table}" for table in stage.source_tables}
    both = events[len(STAGES)]
    assert not [each for each in both["inputs"] if each["namespace"] == "file"], "what a task makes itself is no input"
    rows = [event["outputs"][0].get("outputFacets", {}).get("outputStatistics", {}).get("rowCount") for event in events]
    assert rows == [900, *[None] * (len(STAGES) - 1), 900, 7]


def test_a_day_that_is_not_open_has_lineage_without_versions(tmp_path: Path) -> None:
    (event,) = emitted(tmp_path, [{"stages": ["users"], "work": str(tmp_path / "nowhere"), "date": ""}])
    (output,) = event["outputs"]
    assert "version" not in output["facets"]
    assert [each["name"] for each in event["inputs"]] == ["unknown/users", f"{tmp_path}/nowhere/interactions"]
