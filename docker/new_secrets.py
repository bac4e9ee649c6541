"""Writes a folder with every secret of the compose stack, random, one file each, named like the variable it becomes.

The folder opens for its owner alone; the files in it can be read by whoever gets there, since compose hands them to
containers as they lie and their users are other numbers than yours. A secret that is there already is kept: a database
made with the old password would not open with a new one. The same folder makes the secrets of Kubernetes.
"""

import base64
import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

PLAIN: dict[str, Callable[[], str]] = {
    "POSTGRES_PASSWORD": lambda: secrets.token_urlsafe(32),
    "REDIS_PASSWORD": lambda: secrets.token_hex(32),
    "SPARK_SECRET": lambda: secrets.token_hex(32),
    "GRAFANA_PASSWORD": lambda: secrets.token_urlsafe(24),
    "AIRFLOW_PASSWORD": lambda: secrets.token_urlsafe(24),
    "OPENAI_API_KEY": lambda: secrets.token_urlsafe(48),
    "AIRFLOW__CORE__FERNET_KEY": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    "AIRFLOW__API__SECRET_KEY": lambda: secrets.token_urlsafe(48),
    "AIRFLOW__API_AUTH__JWT_SECRET": lambda: secrets.token_urlsafe(64),
}
DERIVED: dict[str, Callable[[Callable[[str], str]], str]] = {
    "REDIS_URL": lambda kept: f"redis://:{kept('REDIS_PASSWORD')}@redis:6379/0",
    "airflow_passwords.json": lambda kept: json.dumps({"admin": kept("AIRFLOW_PASSWORD")}),
    "spark-defaults.conf": lambda kept: SPARK_DEFAULTS.format(secret=kept("SPARK_SECRET")),
}
SPARK_DEFAULTS = """\
# Whoever speaks with the cluster knows this secret, and what they say is encrypted.
spark.authenticate true
spark.authenticate.secret {secret}
spark.network.crypto.enabled true
# A second door that asks nobody for the secret.
spark.master.rest.enabled false
# The driver runs where the tasks run; executors reach it by the name it has in the cluster's network.
spark.driver.host scheduler
spark.driver.bindAddress 0.0.0.0
spark.driver.memory 2g
"""


def write(folder: Path) -> list[str]:
    """Writes what is missing; returns the names of what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    written = [name for name, make in PLAIN.items() if _write_once(folder / name, make)]

    def kept(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    for name, derive in DERIVED.items():
        text = derive(kept)
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            _write(path, text)
            written.append(name)
    return written


def _write_once(path: Path, make: Callable[[], str]) -> bool:
    if path.is_file():
        return False
    _write(path, make())
    return True


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o444)


def main() -> None:
    """Writes the folder and says where the UI's password lies."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.stderr.write("usage: python docker/new_secrets.py FOLDER\n")
        sys.exit(2)
    folder = Path(sys.argv[1])
    written = write(folder)
    sys.stderr.write(f"{folder}: {len(written)} written, the others kept; Airflow's login is admin, its password in")
    sys.stderr.write(f" {folder / 'AIRFLOW_PASSWORD'}\n")


if __name__ == "__main__":
    main()
