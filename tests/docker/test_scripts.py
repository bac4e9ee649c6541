"""What runs inside containers: health check, entry point, the folder of secrets, the server that waits."""

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import new_secrets
import pytest
from health import complaint

from feature_repo.redis_address import parse_url

DOCKER = Path(__file__).resolve().parents[2] / "docker"


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(500 if self.path == "/broken" else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"scheduler": {"status": "healthy"}, "triggerer": {"status": None}}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_is_healthy_where_it_and_its_parts_are(address: str) -> None:
    assert complaint(address) == ""
    assert complaint(f"{address} scheduler") == ""
    assert complaint(f"{address} scheduler triggerer") == "triggerer is None"
    assert complaint(f"{address} dag_processor") == "dag_processor is None"
    assert "500" in complaint(f"{address}/broken")
    assert "refused" in complaint("http://127.0.0.1:1/")


def test_the_health_check_ends_as_docker_wants(address: str) -> None:
    for wanted, code in ((address, 0), (f"{address} triggerer", 1)):
        script = [sys.executable, "-I", "-S", str(DOCKER / "health.py")]
        assert subprocess.run(script, env={"MSD_HEALTH": wanted}, timeout=30, check=False).returncode == code


def test_secrets_become_variables_and_nothing_else_does(tmp_path: Path) -> None:
    odd = "p\"a's $HOME `id` \\ ü 😀 =x\nsecond line"
    (tmp_path / "REDIS_URL").write_text(odd)
    (tmp_path / "airflow_passwords.json").write_text("{}")
    (tmp_path / "A-B").write_text("no variable's name")
    (tmp_path / "FOLDER").mkdir()
    show = [
        sys.executable,
        "-c",
        "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:]]))",
        "a b",
        "$X",
    ]
    environment = {"PATH": os.defpath, "MSD_SECRETS_FOLDER": str(tmp_path), "PYTHONUTF8": "1"}
    done = subprocess.run(
        [DOCKER / "entrypoint.sh", *show], env=environment, capture_output=True, check=True, timeout=30
    )
    said, arguments = json.loads(done.stdout)
    assert said["REDIS_URL"] == odd
    assert arguments == ["a b", "$X"]
    assert said.keys() - environment.keys() <= {"REDIS_URL", "PWD", "SHLVL", "_", "LC_CTYPE", "OLDPWD"}


def test_the_entry_point_hands_on_the_exit_code_and_goes_away(tmp_path: Path) -> None:
    environment = {"PATH": os.defpath, "MSD_SECRETS_FOLDER": str(tmp_path / "none")}
    done = subprocess.run([DOCKER / "entrypoint.sh", "sh", "-c", "exit 7"], env=environment, timeout=30, check=False)
    assert done.returncode == 7
    with subprocess.Popen([DOCKER / "entrypoint.sh", "sleep", "60"], env=environment) as process:
        deadline = time.monotonic() + 20
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n" and time.monotonic() < deadline:
            time.sleep(0.02)
        process.terminate()
        assert process.wait(20) == -15, "the signal reaches the server itself"


def test_secrets_are_made_once_and_only_their_owner_gets_there(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    first = new_secrets.write(folder)
    assert set(first) == {*new_secrets.PLAIN, *new_secrets.DERIVED} == {path.name for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}, "a container's user reads them"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert new_secrets.write(folder) == []
    (folder / "REDIS_URL").unlink()
    assert new_secrets.write(folder) == ["REDIS_URL"]
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    values = [before[name] for name in new_secrets.PLAIN]
    assert len(set(values)) == len(values)


def test_each_secret_is_what_its_reader_takes(tmp_path: Path) -> None:
    from cryptography.fernet import Fernet

    new_secrets.write(tmp_path)
    redis = parse_url((tmp_path / "REDIS_URL").read_text())
    assert (redis.host, redis.password) == ("redis", (tmp_path / "REDIS_PASSWORD").read_text())
    Fernet((tmp_path / "AIRFLOW__CORE__FERNET_KEY").read_text())
    assert json.loads((tmp_path / "airflow_passwords.json").read_text()).keys() == {"admin"}
    assert (tmp_path / "SPARK_SECRET").read_text() in (tmp_path / "spark-defaults.conf").read_text()


def test_a_wrong_call_writes_nothing(tmp_path: Path) -> None:
    script = [sys.executable, str(DOCKER / "new_secrets.py")]
    for arguments in ([], ["--help"], ["a", "b"]):
        done = subprocess.run([*script, *arguments], cwd=tmp_path, capture_output=True, check=False, timeout=30)
        assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []
