"""What the launcher makes of Airflow's answers: a small server that speaks its REST API, and runs that are scripted."""

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

from dags.laptop.chain_run import CHAIN, ChainRun, Hop, backfill, check_params, follow, trigger
from dags.laptop.overhead import seconds_between_tasks, wall_seconds
from dags.laptop.rest import Airflow
from dags.laptop.table import print_results, shown
from pipeline.errors import ServiceError, UsageError

KEY = "2024-01-02"


class Server(ThreadingHTTPServer):
    """Answers by a table of (method, path) → status and body; forgets every token after its first use."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.tokens: set[str] = set()
        self.posted: list[Any] = []
        self.num_tokens = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == "/auth/token":
            self.server.num_tokens += 1
            self.server.tokens = {f"Bearer {self.server.num_tokens}"}
            self._answer(201, {"access_token": str(self.server.num_tokens)})
        elif self.headers["Authorization"] not in self.server.tokens:
            self._answer(401, {"detail": "Invalid JWT token"})
        else:
            path, _, query = self.path.removeprefix("/api/v2").partition("?")
            status, body = self.server.answers[self.command, path]
            self._answer(status, body(parse_qs(query)) if callable(body) else body)

    def do_POST(self) -> None:
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def airflow(server: Server) -> Airflow:
    return Airflow(f"http://127.0.0.1:{server.server_port}")


def test_a_parameter_that_the_form_does_not_have_is_refused(server, airflow):
    server.answers["GET", f"/dags/{CHAIN[0]}/details"] = (200, {"params": {"again": {}, "teacher": {}}})
    check_params(airflow, {"teacher": "served"})
    with pytest.raises(UsageError, match="no parameter 'teachr'; did you mean 'teacher'"):
        check_params(airflow, {"again": True, "teachr": "served"})


def test_a_token_that_is_refused_is_asked_for_again(server, airflow):
    server.answers["GET", "/pools"] = (200, {"pools": []})
    assert airflow.get("/pools") == {"pools": []}
    server.tokens.clear()
    assert airflow.get("/pools") == {"pools": []}
    assert server.num_tokens == 2


@pytest.mark.parametrize(
    ("status", "detail", "kind"),
    [
        (404, "The Dag with ID: `nobody` was not found", UsageError),
        (409, {"reason": "Unique constraint violation", "statement": "INSERT"}, UsageError),
        (422, [{"loc": ["body", "conf"], "msg": "Input should be a valid dictionary"}], UsageError),
        (500, "Internal   Server\nError", ServiceError),
    ],
)
def test_a_refusal_is_said_in_airflows_words(server, airflow, status, detail, kind):
    server.answers["POST", "/dags/nobody/dagRuns"] = (status, {"detail": detail})
    with pytest.raises(kind, match=f"status {status}") as refused:
        airflow.post("/dags/nobody/dagRuns", {})
    said = detail["reason"] if isinstance(detail, dict) else detail if isinstance(detail, str) else detail[0]["msg"]
    assert " ".join(said.split()) in str(refused.value)


def test_an_airflow_that_is_gone_says_what_to_do():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    airflow = Airflow(f"http://127.0.0.1:{port}")
    assert airflow.healthy() == {}
    with pytest.raises(ServiceError, match="make airflow"):
        airflow.get("/dags")


def test_a_day_under_way_is_followed_and_not_started_twice(server, airflow):
    queued_at = "2026-11-20T10:00:00Z"
    under_way = {"partition_key": KEY, "state": "running", "conf": {"source": "mine"}, "queued_at": queued_at}
    under_way["dag_run_id"] = "manual"
    server.answers["GET", f"/dags/{CHAIN[0]}/dagRuns"] = (200, {"dag_runs": [under_way], "total_entries": 1})
    assert trigger(airflow, KEY, {"source": "mine"}) == datetime.fromisoformat(queued_at)
    with pytest.raises(UsageError, match="other parameters"):
        trigger(airflow, KEY, {"source": "yours"})
    assert server.posted == []
    server.answers["POST", f"/dags/{CHAIN[0]}/dagRuns"] = (200, {})
    under_way["state"] = "success"
    trigger(airflow, KEY, {"source": "yours"})
    assert server.posted == [{"logical_date": None, "conf": {"source": "yours"}, "partition_key": KEY}]


def test_long_lists_are_read_to_their_end(server, airflow):
    tasks = [{"task_id": f"slice {number}"} for number in range(250)]

    def page(query: dict[str, list[str]]) -> dict[str, Any]:
        first, rows = int(query["offset"][0]), min(int(query["limit"][0]), 100)
        return {"task_instances": tasks[first : first + rows], "total_entries": len(tasks)}

    server.answers["GET", "/dags/embedding/dagRuns/one/taskInstances"] = (200, page)
    assert airflow.tasks("embedding", "one") == tasks


def test_a_backfill_waits_for_no_run_of_its_days(server, airflow):
    head = f"/dags/{CHAIN[0]}/dagRuns"
    days = ["2024-01-01", "2024-01-02", "2024-01-03"]
    server.answers["POST", "/backfills/dry_run"] = (200, {"backfills": [{"partition_key": day} for day in days]})
    server.answers["GET", head] = (200, {"dag_runs": [run_of("2024-01-02", "queued")], "total_entries": 1})
    with pytest.raises(UsageError, match="2024-01-02 is under way"):
        backfill(airflow, days[0], days[-1], {})
    with pytest.raises(UsageError, match="from the earlier day"):
        backfill(airflow, days[-1], days[0], {})
    with pytest.raises(ServiceError, match="wanted 2024-01-01, 2024-01-02"):
        backfill(airflow, days[0], days[1], {})
    server.answers["GET", head] = (200, {"dag_runs": [run_of("2024-01-02", "failed")], "total_entries": 1})
    server.answers["POST", "/backfills"] = (200, {"id": 1})
    assert backfill(airflow, days[0], days[-1], {"source": "mine"})[0] == days
    assert server.posted[-1]["dag_run_conf"] == {"source": "mine"}


def run_of(key: str, state: str) -> dict[str, Any]:
    return {"partition_key": key, "state": state, "dag_run_id": f"manual {key}"}


class Scripted:
    """Runs that went as told: DAG → state, each an hour long and a minute after the one before it."""

    url = "http://127.0.0.1"

    def __init__(self, states: dict[str, str], began: datetime) -> None:
        self.states = states
        self.began = began

    def runs(self, dag: str, key: str | None = None) -> list[dict[str, Any]]:
        if dag not in self.states:
            return []
        start = self.began + timedelta(minutes=61 * CHAIN.index(dag) + 1)
        end = (start + timedelta(hours=1)).isoformat()
        state = self.states[dag]
        common = {"partition_key": key, "conf": {}, "run_after": None, "state": state, "dag_run_id": dag}
        earlier = self.began - timedelta(days=1)
        return [
            {**common, "queued_at": start.isoformat(), "start_date": start.isoformat(), "end_date": end},
            {**common, "queued_at": earlier.isoformat(), "start_date": None, "end_date": None, "state": "failed"},
        ]

    def tasks(self, dag: str, run: str) -> list[dict[str, Any]]:
        run_of_it = self.runs(dag)[0]
        start = datetime.fromisoformat(run_of_it["start_date"])
        end = start + timedelta(minutes=50)
        times = {"start_date": start.isoformat(), "end_date": end.isoformat(), "duration": 3000.0}
        return [{"task_id": "only", "map_index": -1, "try_number": 1, "state": self.states[dag], **times}]


def followed(states: dict[str, str], *, arrival_seconds: float = 60, ago: timedelta = timedelta(hours=6)) -> ChainRun:
    began = datetime.now(UTC) - ago
    with shown() as show:
        [run] = follow(Scripted(states, began), [KEY], began, show=show, arrival_seconds=arrival_seconds)
    return run


def test_a_chain_is_followed_from_dag_to_dag():
    run = followed(dict.fromkeys(CHAIN, "success"))
    assert run.is_green
    # A minute until it starts, an hour of run, of which the task has fifty minutes.
    assert [round(wall_seconds(hop)) for hop in run.hops] == [61 * 60] * len(CHAIN)
    assert [round(seconds_between_tasks(hop)) for hop in run.hops] == [11 * 60] * len(CHAIN)


def test_a_dag_that_fails_ends_the_chain():
    run = followed({CHAIN[0]: "success", CHAIN[1]: "failed"})
    assert not run.is_green
    assert [hop.state for hop in run.hops] == ["success", "failed", "waiting", "waiting", "waiting"]
    assert [task["task_id"] for task in run.hops[1].failed_tasks] == ["only"]


def test_a_dag_that_nobody_starts_is_said_to_be_missing():
    run = followed({CHAIN[0]: "success"}, arrival_seconds=0.5)
    assert not run.is_green
    assert CHAIN[1] in run.trouble
    assert "paused" in run.trouble


def test_a_task_that_waits_for_a_person_is_said_to(capsys):
    times = {"start_date": datetime.now(UTC).isoformat(), "end_date": None, "duration": 2.0}
    asks = {"task_id": "approval", "map_index": -1, "state": "awaiting_input", **times}
    hop = Hop("publication", {"state": "running", **times}, [asks], upstream_ended=datetime.now(UTC))
    run = ChainRun(KEY, [hop])
    with shown() as show:
        show([run])
        show([run])
    assert capsys.readouterr().err.count("publication.approval: waits for a person, in the UI\n") == 1
    print_results([run])
    assert "approval waits for a person" in " ".join(capsys.readouterr().err.split())
