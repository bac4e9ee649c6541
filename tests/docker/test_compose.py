"""The stack as the real `docker compose` understands it: what a service may do, and that its names mean something."""

import re
import subprocess
from pathlib import Path
from typing import Any

import new_secrets
import pytest
import yaml
from compose_tool import config
from dockerfile import read

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker/compose.yaml"
PROFILES = ("cpu", "gpu", "observability")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|FERNET|API_KEY", re.IGNORECASE)
SERVERS = ("airflow", "cpu", "gpu")
RUNS_ONCE = {"airflow-init"}


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    return config(FILE, {"MSD_SECRETS": "./secrets"}, *PROFILES)


def complaints(name: str, service: dict[str, Any]) -> list[str]:
    found = []
    if not service.get("read_only") or service.get("cap_drop") != ["ALL"] or service.get("privileged"):
        found.append(f"{name} may change its image or has capabilities")
    if "no-new-privileges:true" not in service.get("security_opt", []):
        found.append(f"{name} may gain privileges")
    if {"cpus", "memory", "pids"} - service.get("deploy", {}).get("resources", {}).get("limits", {}).keys():
        found.append(f"{name} may take the whole machine")
    if service.get("restart") != ("no" if name in RUNS_ONCE else "unless-stopped"):
        found.append(f"{name} restarts: {service.get('restart')}")
    found += [
        f"{name} is open to everybody at {port['published']}"
        for port in service.get("ports", [])
        if port.get("host_ip") != "127.0.0.1"
    ]
    if not re.fullmatch(r"[\w./-]+:\w*\d+\.\d+[\w.-]*", service["image"]):
        found.append(f"{name} runs {service['image']}, which is another image tomorrow")
    said = [f"{key}={value}" for key, value in (service.get("environment") or {}).items()]
    found += [f"{name}: a secret in {text}" for text in said if SECRET.search(text) and "_FILE=/" not in text]
    if "/var/run/docker.sock" in str(service.get("volumes")):
        found.append(f"{name} is root on this machine through Docker's socket")
    return found


def test_no_service_may_do_more_than_it_has_to(stack: dict[str, Any]) -> None:
    assert [line for name, service in stack["services"].items() for line in complaints(name, service)] == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("read_only", False, "may change its image"),
        ("cap_drop", [], "capabilities"),
        ("security_opt", [], "gain privileges"),
        ("deploy", {}, "the whole machine"),
        ("restart", None, "restarts"),
        ("ports", [{"published": "6379"}], "open to everybody"),
        ("image", "redis:latest", "another image tomorrow"),
        ("environment", {"REDIS_PASSWORD": "x"}, "a secret in"),
        ("volumes", ["/var/run/docker.sock"], "Docker's socket"),
    ],
)
def test_a_service_that_may_is_told(stack: dict[str, Any], key: str, value: object, expected: str) -> None:
    redis = stack["services"]["redis"]
    assert any(expected in line for line in complaints("redis", {**redis, key: value}))


def test_what_has_to_be_said_is_asked_for() -> None:
    with pytest.raises(
        ValueError, match="MSD_SECRETS is missing a value: name the folder of secrets; python docker/new"
    ):
        config(FILE, {}, "cpu")


def test_the_example_of_an_env_file_is_one() -> None:
    lines = (ROOT / "docker/.env.example").read_text().splitlines()
    said = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    asked = set(re.findall(r"\$\{(MSD_\w+)", FILE.read_text()))
    assert said.keys() - {"COMPOSE_PROFILES"} <= asked, "a line that nothing reads"
    assert not [key for key, value in said.items() if SECRET.search(key) and key != "MSD_SECRETS" and value]
    assert config(FILE, said, said["COMPOSE_PROFILES"])["services"].keys() >= {"scheduler-cpu", "features"}


def test_one_profile_is_one_scheduler(stack: dict[str, Any]) -> None:
    for profile, other in (("cpu", "gpu"), ("gpu", "cpu")):
        services = config(FILE, {"MSD_SECRETS": "./secrets"}, profile)["services"]
        assert f"scheduler-{profile}" in services
        assert f"scheduler-{other}" not in services
    (device,) = stack["services"]["scheduler-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_everybody_waits_for_what_they_need(stack: dict[str, Any]) -> None:
    services = stack["services"]
    targets = read(ROOT / "docker/Dockerfile")
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            once = needed in RUNS_ONCE
            assert how["condition"] == ("service_completed_successfully" if once else "service_healthy"), name
        built = service.get("build", {}).get("target")
        has_check = built is not None and targets.last(built, "HEALTHCHECK") is not None
        assert has_check or "test" in service.get("healthcheck", {}), f"{name} says to nobody how it is"


def test_every_secret_is_one_that_is_written(stack: dict[str, Any]) -> None:
    written = {*new_secrets.PLAIN, *new_secrets.DERIVED}
    files = {secret["file"].rpartition("/")[2] for secret in stack["secrets"].values()}
    assert files <= written
    assert set(stack["secrets"]) == files
    used = {one["source"] for service in stack["services"].values() for one in service.get("secrets", [])}
    assert used == set(stack["secrets"]), "a secret for nobody"


def test_the_database_and_the_store_are_reached_from_inside_only(stack: dict[str, Any]) -> None:
    for name in ("postgres", "redis"):
        service = stack["services"][name]
        assert "ports" not in service
        assert all(stack["networks"][network].get("internal") for network in service["networks"])
    outside = {name for name, service in stack["services"].items() if "postgres" in service.get("depends_on", {})}
    assert outside == {"airflow-init"}


def test_airflow_knows_every_setting_that_it_is_given(stack: dict[str, Any]) -> None:
    import airflow
    from airflow.providers.openlineage.get_provider_info import get_provider_info

    own = yaml.safe_load((Path(airflow.__file__).parent / "config_templates/config.yml").read_text())
    known = {
        (section, option)
        for sections in (own, get_provider_info()["config"])
        for section, told in sections.items()
        for option in told["options"]
    } | {("core", "simple_auth_manager_passwords_file")}
    images = read(ROOT / "docker/Dockerfile")
    places = [service.get("environment") or {} for service in stack["services"].values()]
    places += [images.environment(name) for name in images.stages]
    given = {tuple(key.lower().split("__")[1:]) for place in places for key in place if key.startswith("AIRFLOW__")}
    assert given - known == set()


def test_airflow_knows_every_command_that_it_is_given(stack: dict[str, Any]) -> None:
    from airflow.cli import cli_parser

    parser = cli_parser.get_parser()
    commands = [(service.get("command") or []) for service in stack["services"].values()]
    commands += [
        stage.words for name in SERVERS for stage in [read(ROOT / "docker/Dockerfile").last(name, "CMD")] if stage
    ]
    said = [
        " ".join(command).rpartition("airflow ")[2].split() for command in commands if "airflow " in " ".join(command)
    ]
    assert len(said) >= 6
    for words in said:
        assert parser.parse_args(words).subcommand == words[0]


def test_our_own_variables_are_read_by_our_own_code(stack: dict[str, Any]) -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for room in ("pipeline", "dags", "feature_repo", "msd_models", "spark_jobs", "docker")
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".sh", ".yaml") and path != FILE
    )
    given = {key for service in stack["services"].values() for key in service.get("environment") or {}}
    assert [key for key in given if key.startswith("MSD_") and key not in code] == []


def test_the_file_that_is_mounted_is_there(stack: dict[str, Any]) -> None:
    for service in stack["services"].values():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and "/data" not in volume["target"]:
                assert Path(volume["source"]).exists(), volume["source"]


def test_shell_lines_are_shell(stack: dict[str, Any]) -> None:
    for name, service in stack["services"].items():
        for command in (service.get("command"), service.get("healthcheck", {}).get("test")):
            if command and "sh" in command:
                # Compose shows a dollar of the container's own doubled.
                text = command[-1].replace("$$", "$")
                assert subprocess.run(["sh", "-n", "-c", text], timeout=20, check=False).returncode == 0, name
