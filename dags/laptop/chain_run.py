"""Runs of the whole chain for date keys: starts the head over REST, and follows what its assets set off."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from dags.chain.names import CHAIN
from dags.laptop.rest import Airflow
from pipeline.errors import ServiceError, UsageError
from pipeline.progress import note
from pipeline.settings import suggest

POLL_SECONDS = 2.0
ARRIVAL_SECONDS = 120.0
"""Time enough for a scheduler that is busy; a DAG that starts later than this is paused, or was never asked to."""
FINAL = ("success", "failed")


@dataclass
class Hop:
    """One DAG's run for one key, as last seen."""

    dag: str
    run: dict[str, Any] | None = None
    tasks: list[dict[str, Any]] = field(default_factory=list)
    upstream_ended: datetime | None = None
    """When the run before it ended; of the head, when it was asked for."""

    @property
    def state(self) -> str:
        """Airflow's, or `waiting` where there is no run yet."""
        return self.run["state"] if self.run else "waiting"

    @property
    def ended(self) -> datetime | None:
        """When the run was over."""
        return moment(self.run["end_date"]) if self.run and self.state in FINAL else None

    @property
    def failed_tasks(self) -> list[dict[str, Any]]:
        """Tasks that failed themselves, not those that waited for them."""
        return [task for task in self.tasks if task["state"] == "failed"]


@dataclass
class ChainRun:
    """One key's way through the chain."""

    key: str
    hops: list[Hop]
    trouble: str = ""
    """Why it does not go on, where no run says so itself."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return bool(self.trouble) or self.hops[-1].state in FINAL or any(hop.state == "failed" for hop in self.hops)

    @property
    def is_green(self) -> bool:
        """Whether every DAG of the chain succeeded."""
        return not self.trouble and all(hop.state == "success" for hop in self.hops)


def check_params(airflow: Airflow, params: Mapping[str, Any], chain: Sequence[str] = CHAIN) -> None:
    """Raises a UsageError for a name that the head's form does not have: Airflow itself takes it and ignores it."""
    known = airflow.get(f"/dags/{chain[0]}/details")["params"]
    for name in params:
        if name not in known:
            raise UsageError(f"{chain[0]} has no parameter '{name}'{suggest(name, known)}")


def trigger(airflow: Airflow, key: str, params: Mapping[str, Any], chain: Sequence[str] = CHAIN) -> datetime:
    """Starts the head of the chain for a key, or finds its run that is under way; returns when that was asked for.

    Raises:
        UsageError: the one under way has other parameters.
    """
    key, asked = day(key).isoformat(), datetime.now(UTC)
    for run in airflow.runs(chain[0], key):
        if run["state"] not in FINAL:
            if run["conf"] != dict(params):
                raise UsageError(
                    f"a run of {key} with other parameters is under way: {run['dag_run_id']}; wait for it, or mark"
                    f" it as failed at {airflow.url}/dags/{chain[0]}"
                )
            note(f"the run of {key} that is under way goes on")
            return moment(run["queued_at"]) or asked
    airflow.post(f"/dags/{chain[0]}/dagRuns", {"logical_date": None, "conf": dict(params), "partition_key": key})
    return asked


def backfill(
    airflow: Airflow, first: str, last: str, params: Mapping[str, Any], chain: Sequence[str] = CHAIN
) -> tuple[list[str], datetime]:
    """Starts Airflow's own backfill of the head; returns the keys it makes and when it was asked for.

    Keys that were backfilled or run before are made again: they recompute nothing, and the chain follows them again.

    Raises:
        UsageError: the days are in the wrong order, or another backfill is under way.
    """
    days = (day(first), day(last))
    if days[0] > days[1]:
        raise UsageError(f"--from {first} is after --to {last}; a backfill goes from the earlier day to the later")
    body = {
        "dag_id": chain[0],
        # The head's run of the morning after a day stands for that day.
        "from_date": f"{days[0]}T00:00:00Z",
        "to_date": f"{days[1]}T23:59:59Z",
        "dag_run_conf": dict(params),
        "reprocess_behavior": "completed",
        "max_active_runs": 1,
    }
    wanted = [(days[0] + timedelta(days=number)).isoformat() for number in range((days[1] - days[0]).days + 1)]
    keys = [run["partition_key"] for run in airflow.post("/backfills/dry_run", body)["backfills"]]
    if keys != wanted:
        raise ServiceError(f"Airflow would backfill the keys {', '.join(keys) or 'none'}; wanted {', '.join(wanted)}")
    for run in airflow.runs(chain[0]):
        if run["partition_key"] in keys and run["state"] not in FINAL:
            raise UsageError(f"a run of {run['partition_key']} is under way: {run['dag_run_id']}; wait for it")
    asked = datetime.now(UTC)
    airflow.post("/backfills", body)
    return keys, asked


def follow(
    airflow: Airflow,
    keys: Sequence[str],
    asked: datetime,
    chain: Sequence[str] = CHAIN,
    show: Callable[[list[ChainRun]], None] | None = None,
    arrival_seconds: float = ARRIVAL_SECONDS,
) -> list[ChainRun]:
    """Watches the runs of these keys that began after `asked`, until each is over.

    Args:
        airflow: where they run.
        keys: partition keys.
        asked: runs of an earlier time are not meant.
        chain: DAG ids, in the order in which one sets off the next.
        show: called after each look.
        arrival_seconds: how long after its upstream's end a DAG may take to start.
    """
    runs = [ChainRun(key, [Hop(dag) for dag in chain]) for key in keys]
    while True:
        for run in runs:
            if not run.is_over:
                waits = _look(airflow, run, asked)
                if waits:
                    others = [_hop_of(other, waits.dag) for other in runs if other is not run]
                    _check_arrival(run, waits, others, arrival_seconds)
        if show:
            show(runs)
        if all(run.is_over for run in runs):
            return runs
        time.sleep(POLL_SECONDS)


def day(key: str) -> date:
    """The day that a key means.

    Raises:
        UsageError: it is not written YYYY-MM-DD.
    """
    try:
        found = date.fromisoformat(key)
    except ValueError:
        found = None
    if found is None or found.isoformat() != key:
        raise UsageError(f"'{key}' is not a date key; write YYYY-MM-DD, for instance 2024-01-13")
    return found


def moment(text: str | None) -> datetime | None:
    """A time of the API."""
    return datetime.fromisoformat(text) if text else None


def _look(airflow: Airflow, chain_run: ChainRun, asked: datetime) -> Hop | None:
    """Brings what is known up to date; returns the hop that should have a run by now and has none."""
    before: datetime | None = asked
    for hop in chain_run.hops:
        if hop.state not in FINAL:
            hop.upstream_ended = before
            hop.run = next((run for run in airflow.runs(hop.dag, chain_run.key) if _is_since(run, asked)), None)
            if hop.run is None:
                return hop
            hop.tasks = airflow.tasks(hop.dag, hop.run["dag_run_id"])
        if hop.state != "success":
            return None
        before = hop.ended
    return None


def _hop_of(chain_run: ChainRun, dag: str) -> Hop:
    return next(hop for hop in chain_run.hops if hop.dag == dag)


def _is_since(run: Mapping[str, Any], asked: datetime) -> bool:
    queued = moment(run["queued_at"] or run["run_after"])
    return queued is not None and queued >= asked


def _check_arrival(chain_run: ChainRun, hop: Hop, of_others: Sequence[Hop], seconds: float) -> None:
    """A run that waits for its turn behind another key's is no trouble; one that nobody will start is."""
    if any(other.run and other.state not in FINAL for other in of_others):
        return
    since = max(filter(None, [hop.upstream_ended, *(other.ended for other in of_others)]))
    if datetime.now(UTC) - since > timedelta(seconds=seconds):
        chain_run.trouble = (
            f"{hop.dag} did not start within {seconds:.0f} s for {chain_run.key}; is it paused, or was the run"
            " before it without a key?"
        )
