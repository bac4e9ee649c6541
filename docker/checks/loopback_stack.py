"""The compose stack's services as they run on the loopback: their words with addresses and folders of this machine."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from check_images import free_port
from dockerfile import read
from rehearsal import INSIDE

from feature_repo.redis_server import find_binary

HERE = Path(__file__).resolve().parents[1]
SPLIT = "\x1f"
"""Stands between the words of a command while they are put into this machine's."""


@dataclass
class Stack:
    """The services as they run here."""

    folder: Path
    services: dict[str, Any]
    ports: dict[str, int] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def here(self, text: str, service: str) -> str:
        """A service's words with addresses and folders as they are on this machine."""
        for name, port in (("postgres", 5432), ("redis", 6379), ("airflow-api", 8080), ("spark-master", 7077)):
            text = text.replace(f"{name}:{port}", f"127.0.0.1:{self.port(name)}")
        text = text.replace("--host 0.0.0.0 --port 8080", f"--host 127.0.0.1 --port {self.port('airflow-api')}")
        text = text.replace(
            f"{SPLIT}spark-master{SPLIT}--port{SPLIT}7077",
            f"{SPLIT}127.0.0.1{SPLIT}--port{SPLIT}{self.port('spark-master')}",
        )
        text = re.sub(rf"--webui-port{SPLIT}\d+", f"--webui-port{SPLIT}{self.port(service + ' page')}", text)
        text = re.sub(
            r"http://127\.0\.0\.1:(8080|8081)/json/", f"http://127.0.0.1:{self.port(service + ' page')}/json/", text
        )
        text = text.replace("http://127.0.0.1:8974", f"http://127.0.0.1:{self.port('health')}")
        text = text.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{self.port('airflow-api')}")
        return INSIDE.sub(
            lambda match: f"{self.folder / service if match[1].startswith('run') else self.folder}/{match[1]}", text
        )

    def port(self, name: str) -> int:
        """The free port that a server has here."""
        return self.ports.setdefault(name, free_port())

    def environment(self, service: str) -> dict[str, str]:
        """What the container would find: its image's, then compose's."""
        told = self.services[service]
        image = read(HERE / "Dockerfile").environment(told["build"]["target"]) if "build" in told else {}
        said = {
            key: self.here(str(value), service) for key, value in {**image, **(told.get("environment") or {})}.items()
        }
        ours = {
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "SPARK_HOME": str(Path(sys.prefix) / "lib/python3.11/site-packages/pyspark"),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            "PYTHONPATH": str(HERE.parent),
            "MSD_SPARK_JOBS": str(HERE.parent / "spark_jobs"),
            "AIRFLOW_HOME": str(self.folder / service / "airflow"),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST": "127.0.0.1",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(self.port("health")),
            "MSD_SECRETS_FOLDER": str(self.folder / service / "run/secrets"),
            "MSD_CACHE": os.environ.get("MSD_CACHE", str(Path.home() / ".cache/msd")),
        }
        Path(ours["AIRFLOW_HOME"]).mkdir(parents=True, exist_ok=True)
        return said | ours

    def hand_over_secrets(self, service: str) -> None:
        """Puts the secrets where compose would mount them."""
        for secret in self.services[service].get("secrets", []):
            target = secret.get("target") or secret["source"]
            place = Path(self.here(target if target.startswith("/") else f"/run/secrets/{target}", service))
            place.parent.mkdir(parents=True, exist_ok=True)
            text = (self.folder / "secrets" / secret["source"]).read_text(encoding="utf-8")
            # One machine: the driver's name in the cluster's network is the loopback.
            text = text.replace("spark.driver.host scheduler", "spark.driver.host 127.0.0.1")
            place.write_text(
                self.here(text, service).replace("bindAddress 0.0.0.0", "bindAddress 127.0.0.1"), encoding="utf-8"
            )

    def command(self, service: str) -> list[str]:
        """What the container runs."""
        told = self.services[service]
        words = [str(word).replace("$$", "$") for word in told["command"]]
        words = self.here(SPLIT.join(words), service).split(SPLIT)
        words = [word.replace("exec redis-server", f"exec {find_binary()}") for word in words]
        return [str(HERE / "entrypoint.sh"), *words] if "build" in told else words
