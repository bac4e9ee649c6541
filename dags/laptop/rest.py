"""Airflow's REST API, as far as the launcher speaks it; a refusal is said in Airflow's own words.

A call of Airflow's command line costs 5 to 12 s of imports, a request a few milliseconds; and only REST can start a run
with a partition key.
"""

from collections.abc import Mapping
from typing import Any

import httpx

from pipeline.errors import ServiceError, UsageError

TIMEOUT_SECONDS = 30.0
PAGE_ROWS = 100
"""Airflow gives no more at once."""
MAX_REASON = 400


class Airflow:
    """One Airflow's REST API."""

    def __init__(self, url: str) -> None:
        self.url = url
        # A connection for each request: on the loopback it costs nothing, and there is none to close.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False, limits=limits)
        self._token = ""

    def healthy(self) -> dict[str, bool]:
        """Which parts say that they are well; empty while the server does not answer."""
        try:
            answer = self._client.get("/api/v2/monitor/health")
            return {part: said.get("status") == "healthy" for part, said in answer.raise_for_status().json().items()}
        except (httpx.HTTPError, ValueError):
            return {}

    def get(self, path: str, **query: Any) -> Any:
        """What stands at a path."""
        return self._ask("GET", path, params=query)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Makes something."""
        return self._ask("POST", path, json=body)

    def patch(self, path: str, body: Mapping[str, Any], **query: Any) -> Any:
        """Changes something."""
        return self._ask("PATCH", path, json=body, params=query)

    def runs(self, dag: str, key: str | None = None) -> list[dict[str, Any]]:
        """The runs of a DAG, newest first; of one partition key where there is one."""
        found = self._pages(f"/dags/{dag}/dagRuns", "dag_runs", order_by="-id")
        return [run for run in found if key is None or run["partition_key"] == key]

    def tasks(self, dag: str, run: str) -> list[dict[str, Any]]:
        """The task instances of a run, mapped ones each by itself."""
        return self._pages(f"/dags/{dag}/dagRuns/{run}/taskInstances", "task_instances")

    def log(self, dag: str, run: str, task: Mapping[str, Any]) -> list[str]:
        """The lines that the last try of a task wrote."""
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task['task_id']}/logs/{max(task['try_number'], 1)}"
        content = self.get(path, map_index=task["map_index"], full_content="true")["content"]
        return [line if isinstance(line, str) else str(line.get("event", "")) for line in content]

    def _pages(self, path: str, name: str, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self.get(path, limit=PAGE_ROWS, offset=len(found), **query)
            found += page[name]
            if not page[name] or len(found) >= page["total_entries"]:
                return found

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        answer = self._send(method, path, **arguments)
        if answer.is_error:
            kind = UsageError if answer.is_client_error else ServiceError
            raise kind(f"Airflow refuses {method} {path}: {_reason(answer)}")
        return answer.json() if answer.content else None

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, f"/api/v2{path}", headers=self._headers(), **arguments)
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                self._token = ""
                answer = self._client.request(method, f"/api/v2{path}", headers=self._headers(), **arguments)
        except httpx.HTTPError as error:
            raise ServiceError(
                f"Airflow at {self.url} does not answer ({type(error).__name__}); see its logs, or: make airflow"
            ) from error
        return answer

    def _headers(self) -> dict[str, str]:
        if not self._token:
            self._token = self._client.get("/auth/token").raise_for_status().json()["access_token"]
        return {"Authorization": f"Bearer {self._token}"}


def _reason(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
    if isinstance(detail, list):
        said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in detail)
    else:
        said = str(detail.get("reason", detail)) if isinstance(detail, dict) else str(detail)
    return f"{' '.join(said.split())[:MAX_REASON]} (status {answer.status_code})"
