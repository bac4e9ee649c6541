"""WORK/airflow: one folder with everything a laptop's Airflow is: settings, secrets, metadata database, logs, pids.

The settings stand in `airflow.cfg`, so that `AIRFLOW_HOME=WORK/airflow airflow …` typed by hand means the same Airflow.
The file holds its secrets too and is readable by its owner only; they are made once, and never printed or inherited.
"""

import base64
import configparser
import json
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.storage import write_atomically

HOST = "127.0.0.1"
USUAL_PORT = 8080
MARK = "MSD_LAPTOP_AIRFLOW"
"""Set in every process of this Airflow and in all that those start: what `stop` knows its own by."""
TRANSPORT = "AIRFLOW__OPENLINEAGE__TRANSPORT"
"""Where lineage goes; Airflow's own variable, set by whoever wants lineage."""
SPARK_OPTIONS = (
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dspark.ui.enabled=false -Dspark.driver.host=127.0.0.1"
    " -Dspark.driver.memory=1500m -Dspark.ui.showConsoleProgress=false"
)
"""Of a spark-submit with a local master: half the processor time, as spark_jobs.session has it for `msd run`."""
HEARTBEAT_TIMEOUT_SECONDS = 60
"""A task whose runner was killed is found after this long and tried again; Airflow's own 300 is for slow networks."""


@dataclass(frozen=True, kw_only=True)
class Home:
    """Where one laptop's Airflow is kept, and what it runs."""

    work: Path
    """The work folder of the datasets; absolute."""
    dags: Path
    """The folder of DAG files; absolute."""
    port: int
    identity: str
    """Random, kept with the folder: the value of MARK."""

    @property
    def folder(self) -> Path:
        """AIRFLOW_HOME."""
        return folder_of(self.work)

    @property
    def url(self) -> str:
        """The UI and the REST API."""
        return f"http://{HOST}:{self.port}"


def folder_of(work: Path) -> Path:
    """AIRFLOW_HOME of a work folder."""
    return work.resolve() / "airflow"


def find_home(work: Path) -> Home | None:
    """The Airflow that was brought up in a work folder, running or not; None where there was none."""
    state = folder_of(work) / "laptop.json"
    if not state.is_file():
        return None
    kept = json.loads(state.read_text(encoding="utf-8"))
    return Home(work=work.resolve(), dags=Path(kept["dags"]), port=kept["port"], identity=kept["identity"])


def make_home(work: Path, dags: Path, port: int | None) -> Home:
    """The folder with its settings written; keeps the address and the secrets of an earlier time where it can.

    Args:
        work: the work folder of the datasets.
        dags: the folder of DAG files.
        port: wanted; None takes the one of last time, else 8080, else any that is free.

    Raises:
        UsageError: the wanted port is in use, or there is no such folder.
    """
    if work.exists() and not work.is_dir():
        raise UsageError(f"--work {work} is a file; name a folder")
    if not dags.is_dir():
        raise UsageError(f"--dags {dags} is no folder; leave it out for the project's own DAGs")
    before = find_home(work)
    folder = folder_of(work)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    home = Home(
        work=work.resolve(),
        dags=dags.resolve(),
        port=_free_port(port, before.port if before else USUAL_PORT),
        identity=before.identity if before else secrets.token_hex(16),
    )
    state = {"dags": str(home.dags), "port": home.port, "identity": home.identity}
    write_atomically(folder / "laptop.json", json.dumps(state).encode())
    _write_settings(home)
    return home


def environment(home: Home) -> dict[str, str]:
    """What every process of this Airflow inherits: the caller's environment, less what would overrule the settings."""
    ours = {f"AIRFLOW__{section}__{key}".upper() for section, keys in _settings(home).items() for key in keys}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    root = str(Path(__file__).resolve().parents[2])
    lineage = {} if TRANSPORT in kept else {"AIRFLOW__OPENLINEAGE__DISABLED": "True"}
    spark = {} if "MSD_SPARK_MASTER" in kept else {"SPARK_SUBMIT_OPTS": SPARK_OPTIONS}
    return {
        **spark,
        # A laptop makes the days it is asked for; nobody expects it to start one of its own at night.
        "MSD_DAILY": "no",
        # A Java machine starts as long as several tables of a laptop take.
        "MSD_TABLES_TOGETHER": "yes",
        **kept,
        **lineage,
        "AIRFLOW_HOME": str(home.folder),
        "AIRFLOW_CONFIG": str(home.folder / "airflow.cfg"),
        "MSD_WORK": str(home.work),
        "HF_HUB_OFFLINE": "1",
        # Else the driver of a spark-submit listens on the machine's own address, and may run another Python.
        "SPARK_LOCAL_IP": HOST,
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        # A process that renames itself writes over its environment, and with it over the mark.
        "SPT_NOENV": "1",
        MARK: home.identity,
    }


def by_hand(home: Home) -> str:
    """What a person types before `airflow …` to mean this Airflow."""
    return f"AIRFLOW_HOME={shlex.quote(str(home.folder))} {shlex.quote(str(Path(sys.executable).parent / 'airflow'))}"


def _settings(home: Home) -> dict[str, dict[str, str | int | float]]:
    return {
        "core": {
            "dags_folder": str(home.dags),
            "load_examples": "False",
            "executor": "LocalExecutor",
            "parallelism": 4,
            "execution_api_server_url": f"{home.url}/execution/",
            # Whoever reaches the loopback is this machine's user: on a shared machine use an Airflow with accounts.
            "simple_auth_manager_all_admins": "True",
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{home.folder / 'airflow.db'}"},
        # Without base_url every task asks for its instructions at port 8080.
        "api": {"host": HOST, "port": home.port, "base_url": home.url, "workers": 1},
        "scheduler": {"task_instance_heartbeat_timeout": HEARTBEAT_TIMEOUT_SECONDS, "scheduler_idle_sleep_time": 0.3},
        # A file that was written is parsed at once all the same; Airflow's own 30 seconds cost a tenth of a core.
        "dag_processor": {"refresh_interval": 30, "min_file_process_interval": 300},
        "logging": {"base_log_folder": str(home.folder / "logs")},
        "usage_data_collection": {"enabled": "False"},
    }


def _write_settings(home: Home) -> None:
    path = home.folder / "airflow.cfg"
    # Airflow expands % in values, and a folder's name may have one.
    settings: dict[str, dict[str, str]] = {
        section: {key: str(value).replace("%", "%%") for key, value in keys.items()}
        for section, keys in _settings(home).items()
    }
    for (section, key), value in _kept_secrets(path).items():
        settings.setdefault(section, {})[key] = value
    written = configparser.RawConfigParser()
    written.read_dict(settings)
    aside = path.with_suffix(".new")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        written.write(file)
    aside.replace(path)


def _kept_secrets(path: Path) -> Mapping[tuple[str, str], str]:
    """Those of last time, so that open browser windows and stored connections stay valid; else new ones."""
    before = configparser.RawConfigParser()
    before.read(path, encoding="utf-8")
    made = {
        ("core", "fernet_key"): base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        ("api", "secret_key"): secrets.token_urlsafe(48),
        ("api_auth", "jwt_secret"): secrets.token_urlsafe(64),
    }
    return {name: before.get(*name, fallback=value) for name, value in made.items()}


def _free_port(wanted: int | None, usual: int) -> int:
    for port in (usual,) if wanted is None else (wanted,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.connect_ex((HOST, port)) != 0:
                return port
    if wanted is not None:
        raise UsageError(f"--port {wanted} is in use by another program; leave it out to take a free one")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
