"""The stack's Redis by its own start command: password, memory policy, and nothing on the command line."""

import os
import socket
import subprocess
import time
from pathlib import Path

import new_secrets
import pytest
import redis
from compose_tool import config

from feature_repo.redis_server import find_binary

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.redis
def test_it_asks_for_the_password_refuses_when_full_and_shows_nobody_the_password(tmp_path: Path) -> None:
    service = config(ROOT / "docker/compose.yaml", {"MSD_SECRETS": "./secrets", "MSD_REDIS_MEMORY": "2mb"}, "cpu")
    shell, flags, text = service["services"]["redis"]["command"]
    new_secrets.write(tmp_path / "secrets")
    password = (tmp_path / "secrets/REDIS_PASSWORD").read_text()
    port = _free_port()
    # The image's redis listens in its own network; this one on the loopback, and keeps its data in the test's folder.
    written = (ROOT / "docker/redis/redis.conf").read_text()
    for said, here in (
        ("bind 0.0.0.0", "bind 127.0.0.1"),
        ("port 6379", f"port {port}"),
        ("dir /data", f"dir {tmp_path}"),
    ):
        assert said in written
        written = written.replace(said, here)
    (tmp_path / "given.conf").write_text(_for_redis_6(written) if _is_redis_6() else written)
    for path, place in (
        ("/etc/redis/redis.conf", tmp_path / "given.conf"),
        ("/run/secrets", tmp_path / "secrets"),
        ("/run/redis", tmp_path),
        ("redis-server", find_binary()),
    ):
        text = text.replace(path, str(place))
    text = text.replace("$$", "$")
    with subprocess.Popen(
        [shell, flags, text], env={"PATH": os.environ["PATH"], "REDIS_MEMORY": "2mb"}, stdout=subprocess.DEVNULL
    ) as process:
        try:
            _wait(port)
            assert password not in Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
            assert (tmp_path / "redis.conf").stat().st_mode & 0o077 == 0
            with pytest.raises(redis.exceptions.AuthenticationError):
                redis.Redis(port=port).get("x")
            client = redis.Redis(port=port, password=password)
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            client.set("kept", "1")
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                _fill(client)
            assert client.get("kept") == b"1"
        finally:
            process.terminate()
            process.wait(30)
    assert (tmp_path / "appendonlydir").is_dir() or (tmp_path / "appendonly.aof").is_file()


def _is_redis_6() -> bool:
    """The one that comes with the tests is older than the image's."""
    said = subprocess.run([find_binary(), "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    return "v=6." in said


def _for_redis_6(written: str) -> str:
    """Listpacks are called ziplists there."""
    return written.replace("listpack", "ziplist")


def _fill(client: redis.Redis) -> None:
    for number in range(4000):
        client.set(f"key {number}", "x" * 1024)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("it does not answer")
