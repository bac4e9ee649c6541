"""Uses a running Airflow through its REST interface, as a person with the password would."""

import time
from collections.abc import Iterator, Sequence

import httpx

DAG = "teacher_generation"
TASK_SECONDS = 300.0


def check_login(url: str, password: str) -> str:
    """The token of the user admin.

    Raises:
        SystemExit: Airflow lets somebody in without the password.
    """
    wrong = httpx.post(f"{url}/auth/token", json={"username": "admin", "password": "no"}, timeout=60)
    nobody = httpx.get(f"{url}/api/v2/dags", timeout=60)
    if wrong.status_code < 400 or nobody.status_code < 400:
        raise SystemExit(f"Airflow lets anybody in: {wrong.status_code} and {nobody.status_code}")
    right = httpx.post(f"{url}/auth/token", json={"username": "admin", "password": password}, timeout=60)
    right.raise_for_status()
    return str(right.json()["access_token"])


def run_first_tasks(url: str, token: str, day: str, tasks: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    """Starts the head of the chain for a day; yields name, state and seconds of these tasks as they end."""
    with httpx.Client(base_url=f"{url}/api/v2", headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        deadline = time.monotonic() + TASK_SECONDS
        while client.get(f"/dags/{DAG}").status_code != 200:
            if time.monotonic() > deadline:
                raise SystemExit(f"Airflow does not know {DAG}: {client.get('/importErrors').text[:2000]}")
            time.sleep(1)
        client.patch(f"/dags/{DAG}", json={"is_paused": False}).raise_for_status()
        call: dict[str, object] = {"logical_date": None, "conf": {}, "partition_key": day}
        started = client.post(f"/dags/{DAG}/dagRuns", json=call)
        started.raise_for_status()
        run = started.json()["dag_run_id"]
        for task in tasks:
            state, seconds = _ended(client, f"/dags/{DAG}/dagRuns/{run}/taskInstances/{task}", deadline)
            yield task, state, seconds


def _ended(client: httpx.Client, address: str, deadline: float) -> tuple[str, float]:
    while True:
        found = client.get(address)
        told = found.json() if found.status_code == 200 else {}
        if told.get("state") in ("success", "failed", "upstream_failed", "skipped", "up_for_retry"):
            return str(told["state"]), float(told.get("duration") or 0)
        if time.monotonic() > deadline:
            return f"{told.get('state')} after {TASK_SECONDS:.0f} s", 0.0
        time.sleep(1)
