"""Brings the compose stack up without containers: each service's own command, environment, secrets and health check.

What `docker compose config` says is done on the loopback of this machine, with this environment's programs in place of
the images': names of services become addresses, the containers' folders lie in a temporary one. Then it is used: the
login, a Spark job that knows the cluster's secret and one that does not, and the first tasks of a day. Needs Debian's
postgresql. What only containers have (networks, read-only images, limits) is not shown by this.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "checks"), str(HERE.parent)]

import new_secrets  # noqa: E402 (the folder beside this script)
from compose_tool import config  # noqa: E402
from loopback_stack import Stack  # noqa: E402

ORDER = (
    "postgres", "redis", "airflow-init", "airflow-api", "airflow-dag-processor", "airflow-triggerer",
    "spark-master", "spark-worker", "scheduler-cpu",
)  # fmt: skip
WAIT_SECONDS = 240.0
DAY = "2024-01-10"


def bring_up(stack: Stack) -> None:
    """Starts the services in order, each when those it needs are well."""
    for name in ORDER:
        started = time.monotonic()
        stack.hand_over_secrets(name)
        if name == "postgres":
            _start(stack, name, _postgres(stack), dict(os.environ))
        else:
            if name == "redis":
                _prepare_redis(stack)
            _start(stack, name, stack.command(name), stack.environment(name))
        _wait(stack, name)
        sys.stdout.write(f"{name:24} {time.monotonic() - started:5.1f} s\n")
        sys.stdout.flush()


def use(stack: Stack) -> None:
    """The cluster's secret, the login, and the first tasks of a day."""
    use_spark(stack)
    from airflow_use import check_login, run_first_tasks

    url = f"http://127.0.0.1:{stack.port('airflow-api')}"
    token = check_login(url, (stack.folder / "secrets/AIRFLOW_PASSWORD").read_text(encoding="utf-8"))
    sys.stdout.write("login: refused without the password, granted with it\n")
    for task, state, seconds in run_first_tasks(url, token, DAY, ("open", "items")):
        sys.stdout.write(f"task {task}: {state} ({seconds:.0f} s)\n")
        if state != "success":
            sys.exit(f"the task {task} of {DAY} ended as {state}")


def use_spark(stack: Stack) -> None:
    """A job of somebody who does not know the cluster's secret, and one of somebody who does."""
    submit = [str(Path(sys.executable).with_name("spark-submit")), "--conf", "spark.executor.memory=512m"]
    job = [str(HERE.parent / "spark_jobs/items.py"), "--source", "tiny-world", "--preset", "tiny-world"]
    call = [
        *submit,
        "--master",
        f"spark://127.0.0.1:{stack.port('spark-master')}",
        *job,
        "--work",
        str(stack.folder / "w"),
    ]
    said = stack.environment("scheduler-cpu")
    stack.hand_over_secrets("scheduler-cpu")
    stranger = {key: value for key, value in said.items() if key != "SPARK_CONF_DIR"}
    refused = subprocess.run(call, env=stranger, cwd=stack.folder, capture_output=True, timeout=240, check=False)
    if refused.returncode == 0:
        sys.exit("the Spark cluster ran a job of somebody who does not know its secret")
    sys.stdout.write("spark: a job without the secret is refused\n")
    done = subprocess.run(call, env=said, cwd=stack.folder, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode != 0:
        sys.exit(f"a job that knows the secret fails:\n{done.stderr[-3000:]}")
    sys.stdout.write("spark: a job with the secret has made its table\n")


def _start(stack: Stack, name: str, command: list[str], said: dict[str, str]) -> None:
    (stack.folder / name).mkdir(exist_ok=True)
    with (stack.folder / name / "log").open("wb") as log:
        stack.running[name] = subprocess.Popen(
            command, env=said, cwd=stack.folder / name, stdout=log, stderr=log, start_new_session=True
        )


def _wait(stack: Stack, name: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    process = stack.running[name]
    while time.monotonic() < deadline:
        ended = process.poll()
        if name == "airflow-init" and ended == 0:
            return
        if ended is not None:
            break
        if name != "airflow-init" and _is_well(stack, name):
            return
        time.sleep(0.5)
    log = (stack.folder / name / "log").read_text(encoding="utf-8", errors="replace")
    sys.exit(f"{name} is not well ({process.poll()}):\n{log[-4000:]}")


def _is_well(stack: Stack, name: str) -> bool:
    if name == "postgres":
        command = [
            str(_postgres_bin() / "pg_isready"),
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(stack.port(name)),
            "-U",
            "airflow",
        ]
        return subprocess.run(command, check=False, timeout=30).returncode == 0
    if name == "redis":
        import redis

        password = (stack.folder / "secrets/REDIS_PASSWORD").read_text(encoding="utf-8")
        with contextlib.suppress(redis.ConnectionError):
            return bool(redis.Redis(port=stack.port(name), password=password).ping())
        return False
    check = [sys.executable, "-I", "-S", str(HERE / "health.py")]
    return (
        subprocess.run(check, env=stack.environment(name), check=False, capture_output=True, timeout=60).returncode == 0
    )


def _postgres(stack: Stack) -> list[str]:
    """What the official image does when it starts on an empty volume: a cluster of the user's, with the password."""
    data, secret = stack.folder / "postgres/data", stack.folder / "postgres/run/secrets/POSTGRES_PASSWORD"
    # A password file of initdb has it on a line, and Postgres does not run as root.
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    (stack.folder / "postgres/password").write_text(secret.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    if prefix:
        for path in (stack.folder / "postgres", stack.folder / "postgres/password"):
            shutil.chown(path, "postgres")
    initdb = [str(_postgres_bin() / "initdb"), "-D", str(data), "-U", "airflow", "--auth=scram-sha-256", "-E", "UTF8"]
    subprocess.run(
        [*prefix, *initdb, f"--pwfile={stack.folder / 'postgres/password'}"],
        check=True,
        timeout=120,
        stdout=subprocess.DEVNULL,
    )
    sockets = [
        "-c",
        "unix_socket_directories=",
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        f"port={stack.port('postgres')}",
    ]
    single = [str(_postgres_bin() / "postgres"), "--single", "-D", str(data), "postgres"]
    subprocess.run(
        [*prefix, *single], input=b"CREATE DATABASE airflow\n", check=True, timeout=60, stdout=subprocess.DEVNULL
    )
    return [*prefix, str(_postgres_bin() / "postgres"), "-D", str(data), *sockets]


def _postgres_bin() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        sys.exit("Postgres is not installed: apt-get install postgresql")
    return found[-1].parent


def _prepare_redis(stack: Stack) -> None:
    written = (HERE / "redis/redis.conf").read_text(encoding="utf-8")
    place = Path(stack.here("/etc/redis/redis.conf", "redis"))
    place.parent.mkdir(parents=True, exist_ok=True)
    Path(stack.here("/run/redis", "redis")).mkdir(parents=True, exist_ok=True)
    for said, here in (
        ("bind 0.0.0.0", "bind 127.0.0.1"),
        ("port 6379", f"port {stack.port('redis')}"),
        ("dir /data", f"dir {stack.folder / 'redis'}"),
        # The Redis that comes with the project may be one that calls it so.
        ("hash-max-listpack-value", "hash-max-ziplist-value"),
    ):
        written = written.replace(said, here)
    place.write_text(written, encoding="utf-8")


@contextlib.contextmanager
def _stack() -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="msd-stack-"))
    folder.chmod(0o711)
    new_secrets.write(folder / "secrets")
    for name in ("work", "cache", "scratch", "metrics", "home/msd", "var/lib/airflow", "var/log/airflow"):
        (folder / name).mkdir(parents=True)
    (folder / "opt").mkdir()
    (folder / "opt/dags").symlink_to(HERE.parent / "dags")
    (folder / "opt/msd").symlink_to(sys.prefix)
    said = {"MSD_SECRETS": str(folder / "secrets"), "MSD_SOURCE": "tiny-world", "MSD_PRESET": "tiny-world"}
    stack = Stack(
        folder=folder, services=config(HERE / "compose.yaml", {**said, "MSD_SPARK_MEMORY": "1g"}, "cpu")["services"]
    )
    try:
        yield stack
    finally:
        for process in reversed(stack.running.values()):
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)


if __name__ == "__main__":
    # An interrupt by `timeout` leaves nothing running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with _stack() as current:
        bring_up(current)
        use(current)
