"""Every manifest against Kubernetes' own schemas, what pods may do, and whether the templates fit images and DAGs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dockerfile import read

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker/k8s"
TEMPLATES = sorted((FOLDER / "pod_templates").glob("*.yaml"))
VERSION = "1.33"


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def manifests() -> list[Path]:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    return [FOLDER / name for name in kustomization["resources"]] + TEMPLATES


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in manifests():
        for document in documents(path):
            if document["kind"] == "Pod":
                yield path.name, document["spec"]
            elif document["kind"] == "Deployment":
                yield path.name, document["spec"]["template"]["spec"]


@pytest.mark.parametrize("path", manifests(), ids=lambda path: path.name)
def test_it_is_what_kubernetes_takes(path: Path) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_what_kubernetes_does_not_take_is_told() -> None:
    pod = documents(TEMPLATES[0])[0]
    pod["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, VERSION, strict=True)


def test_nothing_lies_there_that_is_not_applied() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    (templates,) = (one for one in kustomization["configMapGenerator"] if "files" in one)
    named = {*kustomization["resources"], *templates["files"], "kustomization.yaml", "airflow-values.yaml"}
    assert named == {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml")}


def complaints(spec: dict[str, Any]) -> list[str]:
    found = []
    context = spec.get("securityContext", {})
    if not context.get("runAsNonRoot") or context.get("runAsUser") != 10001 or "seccompProfile" not in context:
        found.append("may be root")
    if spec.get("automountServiceAccountToken") is not False:
        found.append("has a key to the cluster")
    if spec.get("enableServiceLinks") is not False:
        found.append("takes a Service's name for a setting")
    volumes = {volume["name"] for volume in spec["volumes"]}
    return found + [line for container in spec["containers"] for line in _of_container(container, volumes)]


def _of_container(container: dict[str, Any], volumes: set[str]) -> list[str]:
    found = []
    locked = container.get("securityContext", {})
    if locked.get("allowPrivilegeEscalation") is not False or locked.get("capabilities") != {"drop": ["ALL"]}:
        found.append("may gain privileges")
    if not locked.get("readOnlyRootFilesystem"):
        found.append("may change its image")
    for kind in ("requests", "limits"):
        if {"cpu", "memory", "ephemeral-storage"} - container.get("resources", {}).get(kind, {}).keys():
            found.append(f"has no {kind}")
    if {mount["name"] for mount in container["volumeMounts"]} != volumes:
        found.append("volumes and mounts are not the same")
    for one in container.get("env", []):
        if re.search(r"PASSWORD|TOKEN|_KEY$|REDIS_URL", one["name"]) and "value" in one:
            found.append("a secret's value in a manifest")
    return found


def test_no_pod_may_do_more_than_it_has_to() -> None:
    assert {name: found for name, spec in pods() if (found := complaints(spec))} == {}
    assert complaints(
        {"volumes": [], "containers": [{"volumeMounts": [], "env": [{"name": "A_KEY", "value": "x"}]}]}
    ) == [
        "may be root",
        "has a key to the cluster",
        "takes a Service's name for a setting",
        "may gain privileges",
        "may change its image",
        "has no requests",
        "has no limits",
        "a secret's value in a manifest",
    ]


def test_servers_say_when_they_are_ready() -> None:
    served = [document for path in manifests() for document in documents(path) if document["kind"] == "Deployment"]
    for deployment in served:
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    kinds = [document["kind"] for path in manifests() for document in documents(path)]
    assert kinds.count("PodDisruptionBudget") == kinds.count("Service") == len(served) == 2


def test_every_image_is_one_of_ours() -> None:
    targets = read(ROOT / "docker/Dockerfile").stages
    values = yaml.safe_load((FOLDER / "airflow-values.yaml").read_text())
    named = [container["image"] for _, spec in pods() for container in spec["containers"]]
    named.append(f"{values['defaultAirflowRepository']}:{values['defaultAirflowTag']}")
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert version is not None
    for image in named:
        name, _, tag = image.partition(":")
        assert name.removeprefix("msd-") in targets
        assert tag == version[1]


def test_there_is_a_template_for_every_room_of_the_schedules() -> None:
    rooms = {path.stem for path in TEMPLATES}
    said = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "dags/chain").glob("*.py"))
    assert {room for room in ("spark", "features", "models_cpu", "models_gpu") if f'"{room}"' in said} == rooms
    for path in TEMPLATES:
        (pod,) = documents(path)
        assert [container["name"] for container in pod["spec"]["containers"]] == ["base"], "Airflow looks for this name"
        assert pod["spec"]["restartPolicy"] == "Never", "Airflow itself decides on another try"
        (container,) = pod["spec"]["containers"]
        asks_for_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
        assert asks_for_gpu == (path.stem == "models_gpu")


def test_the_chart_runs_the_airflow_of_the_lock() -> None:
    values = yaml.safe_load((FOLDER / "airflow-values.yaml").read_text())
    pin = re.search(r"^apache-airflow==(.+)$", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    assert pin is not None
    assert values["airflowVersion"] == pin[1]
    assert values["uid"] == values["gid"] == values["securityContexts"]["pod"]["runAsUser"] == 10001
    assert environment_of("msd-deployment")["MSD_POD_TEMPLATES"] in {
        mount["mountPath"] for mount in values["volumeMounts"]
    }


def environment_of(name: str) -> dict[str, str]:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    (found,) = (one for one in kustomization["configMapGenerator"] if one["name"] == name)
    return dict(literal.split("=", 1) for literal in found["literals"])


def test_airflow_and_the_pods_read_the_schedules_with_the_same_variables() -> None:
    values = yaml.safe_load((FOLDER / "airflow-values.yaml").read_text())
    shared = [{"configMapRef": {"name": "msd-deployment"}}]
    assert yaml.safe_load(values["extraEnvFrom"]) == shared
    for path in TEMPLATES:
        (container,) = documents(path)[0]["spec"]["containers"]
        assert container["envFrom"] == shared
        assert not [one["name"] for one in container["env"] if one["name"] in environment_of("msd-deployment")]
        assert environment_of("msd-deployment")["MSD_WORK"] in {
            mount["mountPath"] for mount in container["volumeMounts"]
        }
    table = (ROOT / "dags/chain/deployment.py").read_text()
    elsewhere = {"MSD_LOG", "MSD_SPARK_MASTER"}
    """Read by the log and by the bootstrap."""
    assert {name for name in environment_of("msd-deployment") if name not in table} == elsewhere


def test_policies_name_pods_that_there_are() -> None:
    labels = [document["metadata"].get("labels", {}) for path in TEMPLATES for document in documents(path)]
    for path in manifests():
        for document in documents(path):
            if document["kind"] == "Deployment":
                labels.append(document["spec"]["template"]["metadata"]["labels"])
    for document in documents(FOLDER / "network-policies.yaml"):
        selector = document["spec"]["podSelector"]
        for key, value in selector.get("matchLabels", {}).items():
            assert any(one.get(key) == value for one in labels), document["metadata"]["name"]
        for one in selector.get("matchExpressions", []):
            assert set(one["values"]) == {found[one["key"]] for found in labels}
