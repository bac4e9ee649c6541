"""Metrics of batch work: read back by Prometheus's own parser, pushed to a real server, written by many at once."""

import base64
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import metrics
from pipeline.errors import BusyError, StageError
from pipeline.metrics_out import METRICS, Figures, file_name, send
from pipeline.stages import BY_NAME
from pipeline.storage import Outcome, Workspace, commit, write_atomically


@pytest.fixture
def told(tmp_path):
    return SimpleNamespace(
        workspace=Workspace(tmp_path / "work"), source=SimpleNamespace(name="tiny-world"), date="2024-01-10"
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MSD_METRICS_DIR", str(tmp_path / "prom"))
    monkeypatch.delenv("MSD_PUSHGATEWAY", raising=False)
    return tmp_path / "prom"


class Gateway:
    """Takes pushes as a Pushgateway does: keeps the last of each address."""

    def __init__(self, seconds=0.0):
        gateway = self
        self.taken = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                time.sleep(seconds)
                gateway.taken.append((self.path, self.headers["Authorization"], body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def made(told, name, details, **rows):
    dataset = told.workspace.dataset(name, "f" * 64, BY_NAME[name].schema)
    dataset.folder.mkdir(parents=True, exist_ok=True)
    (dataset.folder / "data").write_bytes(b"x" * 1000)
    facts = {"seconds": 2.0, "created_at": "2024-01-11T02:00:00+00:00"}
    commit(dataset, Outcome(**rows, details=details), facts)
    return dataset


def read(text):
    return {
        (sample.name, *(value for key, value in sorted(sample.labels.items()) if key not in ("project", "source"))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def read_all(folder):
    return {key: value for path in folder.glob("*.prom") for key, value in read(path.read_text()).items()}


def test_a_datasets_figures_are_those_of_its_manifest(told, folder):
    details = {"texts": 10, "texts_read": 4, "tokens_read": 100, "reading_seconds": 0.5}
    dataset = made(told, "item_vectors", details, rows_in=12, rows_ok=9, rows_rejected=1, rows_skipped=2)
    metrics.tell_stage(told, dataset)
    metrics.tell_stage(told, dataset)
    found = read_all(folder)
    assert len(list(folder.iterdir())) == 1
    assert [found["msd_stage_rows", each, "item_vectors"] for each in ("ok", "rejected", "skipped")] == [9, 1, 2]
    assert found["msd_stage_tokens_per_second", "item_vectors"] == 200
    assert found["msd_stage_texts", "kept", "item_vectors"] == 6
    assert found["msd_stage_duration_seconds", "item_vectors"] == 2
    assert found["msd_stage_size_bytes", "item_vectors"] > 1000
    assert found["msd_stage_last_success_timestamp_seconds", "item_vectors"] == 1704938400
    assert found["msd_stage_data_timestamp_seconds", "item_vectors"] == 1704931200, "the end of the day, not its start"


def test_nothing_is_told_of_a_dataset_that_is_not_made(told, folder):
    metrics.tell_stage(told, told.workspace.dataset("items", "a" * 64, None))
    assert not folder.exists()


def test_failures_are_counted_over_processes_and_a_success_leaves_them(told, folder):
    for _ in range(3):
        with pytest.raises(StageError), metrics.failures_told(told, "items"):
            raise StageError("no")
    with pytest.raises(BusyError), metrics.failures_told(told, "items"):
        raise BusyError("another run")
    metrics.tell_stage(told, made(told, "items", {}, rows_in=1, rows_ok=1))
    found = read_all(folder)
    assert found["msd_stage_failures_total", "items"] == 3
    assert found["msd_stage_last_failure_timestamp_seconds", "items"] == pytest.approx(time.time(), abs=60)
    assert found["msd_stage_rows", "ok", "items"] == 1


def test_checks_leave_what_they_measured_and_nothing_they_did_not(told, folder):
    metrics.tell_gate(told, is_open=False, phrase_f1=0.5, phrase_f1_floor=0.3, auc_loss=None, auc_loss_bound=0.02)
    metrics.tell_canary(told, is_within_bounds=True, freshness_seconds=60.0, coverage_ratio=float("nan"))
    found = read_all(folder)
    assert found["msd_gate_is_open",] == 0
    assert found["msd_gate_phrase_f1_floor_ratio",] == 0.3
    assert ("msd_gate_auc_loss_ratio",) not in found
    assert ("msd_canary_coverage_ratio",) not in found
    assert found["msd_canary_freshness_seconds",] == 60


def test_a_push_adds_under_the_stages_own_key(told, folder, monkeypatch):
    with Gateway() as gateway:
        monkeypatch.setenv("MSD_PUSHGATEWAY", f"http://some:s%40fe@{gateway.address}")
        metrics.tell_slice(told, "teacher_outputs", 2, rows=64, seconds=1.0)
    ((path, authorization, body),) = gateway.taken
    assert path.startswith("/metrics/job/msd/")
    assert {"project/msd", "source/tiny-world", "stage/teacher_outputs", "slice/2"} <= {
        "/".join(pair) for pair in zip(path.split("/")[4::2], path.split("/")[5::2], strict=True)
    }
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"some:s@fe"
    assert read(body)["msd_slice_rows", "2", "teacher_outputs"] == 64


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "http://user:hidden@127.0.0.1:1", "ftp://x", "http://", ":::", "a b"]
)
def test_a_gateway_that_is_not_there_is_a_warning(told, folder, monkeypatch, capsys, address):
    monkeypatch.setenv("MSD_PUSHGATEWAY", address)
    metrics.tell_slice(told, "teacher_outputs", 2, rows=64, seconds=1.0)
    said = capsys.readouterr().err
    assert "metrics: cannot push" in said
    assert "hidden" not in said
    assert read_all(folder)["msd_slice_rows", "2", "teacher_outputs"] == 64


def test_a_slow_gateway_is_given_up(told, monkeypatch, capsys):
    monkeypatch.delenv("MSD_METRICS_DIR", raising=False)
    with Gateway(seconds=8.0) as gateway:
        monkeypatch.setenv("MSD_PUSHGATEWAY", gateway.address)
        started = time.monotonic()
        metrics.tell_slice(told, "teacher_outputs", 1, rows=1, seconds=1.0)
        assert time.monotonic() - started < 6.0
    assert "timed out" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_a_warning(told, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MSD_METRICS_DIR", str(tmp_path / "file" / "below"))
    metrics.tell_slice(told, "teacher_outputs", 1, rows=1, seconds=1.0)
    assert "metrics: cannot write" in capsys.readouterr().err


def test_a_counter_that_cannot_be_kept_hides_no_failure(told, folder):
    (told.workspace.root / "metrics").write_text("in the way")
    with pytest.raises(StageError, match="the real one"), metrics.failures_told(told, "items"):
        raise StageError("the real one")


@pytest.mark.parametrize("source", ["tiny-world", "täst/../../x", "名前", 'a"b\nc\\', "", "x" * 300])
def test_any_name_of_a_source_makes_one_readable_file_below_the_folder(told, folder, source):
    told.source.name = source
    metrics.tell_slice(told, "teacher_outputs", 1, rows=5, seconds=1.0)
    (path,) = folder.iterdir()
    (family, *_) = text_string_to_metric_families(path.read_text(encoding="utf-8"))
    assert family.samples[0].labels["source"] == source[: metrics.LONGEST_LABEL]


def test_names_that_fold_alike_make_two_files():
    names = {file_name({"project": "msd", "source": source}, "items") for source in ("a_b", "a/b", "a b")}
    assert len(names) == 3


WRITER = """
import sys
from types import SimpleNamespace
from pathlib import Path
from pipeline import metrics
from pipeline.errors import StageError
from pipeline.storage import Workspace
told = SimpleNamespace(workspace=Workspace(Path(sys.argv[1])), source=SimpleNamespace(name="s"), date="")
for n in range(int(sys.argv[2])):
    metrics.tell_slice(told, "teacher_outputs", 1, rows=n, seconds=1.0)
    try:
        with metrics.failures_told(told, "items"):
            raise StageError("no")
    except StageError:
        pass
"""


def test_processes_at_once_and_killed_ones_leave_whole_files_and_no_lost_count(tmp_path, folder):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "work")]
    writers = [subprocess.Popen([*command, "40"]) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert read_all(folder)["msd_stage_failures_total", "items"] == 80
    for delay in (0.4, 0.5, 0.6):
        writer = subprocess.Popen([*command, "100000"])
        time.sleep(delay)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        found = read_all(folder)
        assert found["msd_slice_duration_seconds", "1", "teacher_outputs"] == 1
        assert found["msd_stage_failures_total", "items"] >= 80


def test_labels_are_few(told, folder):
    for name, (details, rows) in {"items": ({}, 3), "item_vectors": ({"texts": 1}, 1)}.items():
        metrics.tell_stage(told, made(told, name, details, rows_in=rows, rows_ok=rows))
    allowed = {"project", "source", "stage", "outcome", "kind", "origin", "entity", "average", "arm", "slice"}
    for path in folder.iterdir():
        for family in text_string_to_metric_families(path.read_text()):
            assert all(set(sample.labels) <= allowed for sample in family.samples)
        assert "f" * 16 not in path.read_text()
        assert told.date not in path.read_text()


def test_what_is_not_in_the_table_cannot_be_told():
    with pytest.raises(AssertionError):
        Figures().add("msd_stage_something", 1.0)


def test_names_follow_prometheus_rules():
    units = (
        "_rows",
        "_seconds",
        "_bytes",
        "_ratio",
        "_total",
        "_tokens",
        "_per_second",
        "_texts",
        "_keys",
        "_open",
        "_bounds",
    )
    for name, text in METRICS.items():
        assert re.fullmatch(r"msd_[a-z0-9_]+", name)
        assert name.endswith(units)
        assert text.endswith(".")


def test_a_figure_replaces_its_file_whole(folder):
    labels = {"project": "p", "source": "s"}
    for value in (1.0, 2.0):
        figures = Figures()
        figures.add("msd_gate_is_open", value)
        send(figures, labels, "gate")
    assert read_all(folder) == {("msd_gate_is_open",): 2.0}
    write_atomically(folder / "other.prom", b"")
    assert len(list(folder.glob("*.prom"))) == 2
