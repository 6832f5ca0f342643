"""What is in deploy/ and cannot be run here, held to its own validators and to one list of versions."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.state import RAY_ENV, read_env_file

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
VERSIONS = read_env_file(DEPLOY / "versions.env")
CONSTRAINTS = dict(
    line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line
)
BIN = Path(sys.executable).parent
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def is_shell(file: Path) -> bool:
    return file.is_file() and re.match(rb"#!.*\b(sh|bash)\b", file.read_bytes()[:40]) is not None


SHELL = sorted(path for path in [*DEPLOY.rglob("*"), REPOSITORY / ".ci" / "run"] if is_shell(path))


def ray_specs(name: str) -> dict[str, Any]:
    """The RayCluster's spec, or the RayJob's own."""
    spec = yaml.safe_load((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())["spec"]
    found: dict[str, Any] = spec.get("rayClusterSpec", spec)
    return found


def pod_templates() -> Iterator[tuple[str, dict[str, Any]]]:
    for manifest in MANIFESTS:
        for found in yaml.safe_load_all(manifest.read_text()):
            yield from ((f"{manifest.stem}/{found['kind']}", template) for template in templates_in(found))


def templates_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping below that has containers, with its metadata."""
    if isinstance(value, list):
        for each in value:
            yield from templates_in(each)
    elif isinstance(value, dict):
        if "containers" in value.get("spec", {}):
            yield value
        for each in value.values():
            yield from templates_in(each)


TEMPLATES = list(pod_templates())


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=False)


def test_compose_file_is_valid_and_publishes_on_loopback_only() -> None:
    arguments: list[str | Path] = [
        "--env-file",
        DEPLOY / "versions.env",
        "--file",
        DEPLOY / "docker" / "compose.yaml",
        "config",
    ]
    assert (done := run(BIN / "docker-compose", *arguments, "-q")).returncode == 0, done.stderr
    config = yaml.safe_load(run(BIN / "docker-compose", *arguments).stdout)
    assert "variable is not set" not in done.stderr
    published = [port for service in config["services"].values() for port in service.get("ports", [])]
    assert published and {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert all(service["cap_drop"] == ["ALL"] for service in config["services"].values())
    assert all("/health" not in str(service["healthcheck"]["test"]) for service in config["services"].values())


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_objects_are_valid(manifest: Path) -> None:
    done = run(BIN / "kubernetes-validate", "--strict", manifest)
    assert done.returncode == 0 and "ERROR" not in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "template"), TEMPLATES, ids=[name for name, _ in TEMPLATES])
def test_every_pod_is_valid_unprivileged_probed_and_bounded(tmp_path: Path, name: str, template: Any) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **template["metadata"]}}
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump({**pod, "spec": template["spec"]}))
    done = run(BIN / "kubernetes-validate", "--strict", tmp_path / "pod.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    spec = template["spec"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= set(container["resources"])
        assert container["name"] == "submitter" or "exec" in container["readinessProbe"]  # as a client, not by a port
        assert [entry for entry in container.get("env", []) if is_secret_in_the_open(entry)] == []


def is_secret_in_the_open(entry: dict[str, Any]) -> bool:
    """Whether a manifest gives a password itself, and not the file or the Secret that holds it."""
    named = re.search("PASSWORD|TOKEN|SECRET", entry["name"]) is not None
    return named and not str(entry.get("value", "/run/secrets/")).startswith("/run/secrets/")


def test_both_ray_clusters_are_the_same_and_in_token_mode() -> None:
    cluster, job = copy.deepcopy(ray_specs("raycluster")), copy.deepcopy(ray_specs("rayjob"))
    head = job["headGroupSpec"]["template"]["spec"]  # which has the search file too
    assert head["volumes"].pop(0)["name"] == head["containers"][0]["volumeMounts"].pop(0)["name"] == "search"
    assert cluster == job
    assert cluster["authOptions"] == {"mode": "token", "secretName": "hpsearch-ray"}


def test_every_pod_is_under_a_network_policy_of_its_own() -> None:
    policies = [
        yaml_object["spec"]["podSelector"]
        for yaml_object in yaml.safe_load_all((DEPLOY / "kubernetes" / "networkpolicies.yaml").read_text())
    ]
    assert {} in policies  # which closes everything
    for name, template in TEMPLATES:
        assert {"matchLabels": template["metadata"]["labels"]} in policies, name


def test_versions_are_said_once() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert VERSIONS["HPSEARCH_IMAGE"] == f"hpsearch:{project['version']}"
    images = {container["image"] for _, template in TEMPLATES for container in template["spec"]["containers"]}
    assert images == {VERSIONS["HPSEARCH_IMAGE"], VERSIONS["POSTGRES_IMAGE"]}
    assert {ray_specs(name)["rayVersion"] for name in ("raycluster", "rayjob")} == {CONSTRAINTS["ray"]}
    assert "constraints.txt" in (DEPLOY / "docker" / "Dockerfile").read_text()
    assert "constraints.txt" in (DEPLOY / "cloud" / "ray.yaml").read_text()


def test_dockerfile_copies_only_what_is_there_and_what_the_context_has() -> None:
    lines = [line.split() for line in (DEPLOY / "docker" / "Dockerfile").read_text().splitlines()]
    copied = [name for line in lines if line[:1] == ["COPY"] and "--from=build" not in line for name in line[1:-1]]
    let_in = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in copied:
        assert list(REPOSITORY.glob(name)), name
        assert any(name == allowed or name.startswith(allowed + "/") for allowed in let_in), name
    assert "USER 10001:10001" in (DEPLOY / "docker" / "Dockerfile").read_text()


@pytest.mark.parametrize("script", SHELL, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_shell_scripts(script: Path) -> None:
    done = run(BIN / "shellcheck", "--external-sources", "--source-path=SCRIPTDIR", script)
    assert done.returncode == 0, done.stdout


def test_all_shell_scripts_are_found() -> None:
    assert len(SHELL) == 8


def test_ray_up_file_is_what_this_ray_reads() -> None:
    from ray.autoscaler._private.util import validate_config

    path = DEPLOY / "cloud" / "ray.yaml"
    config = {**yaml.safe_load(path.read_text()), "cluster_synced_files": []}  # which `ray up` adds
    validate_config(config)
    here = [path.parent / source for source in config["file_mounts"].values()]
    assert all(source.exists() for source in here if source.name != "dist")
    config["head_node_typo"] = config.pop("head_node_type")
    with pytest.raises(Exception, match="head_node_typo"):
        validate_config(config)


def test_no_interface_is_open_beyond_its_network() -> None:
    """Ray's dashboard runs code: outside of containers it is never bound to all interfaces."""
    for path in [*DEPLOY.glob("slurm/*"), *DEPLOY.glob("cloud/*"), *DEPLOY.glob("local/*.py")]:
        assert "0.0.0.0" not in path.read_text(), path


def test_ray_environment_is_token_mode_everywhere() -> None:
    assert read_env_file(RAY_ENV)["RAY_AUTH_MODE"] == "token"
    for place in ("docker/compose.yaml", "kubernetes/setup", "slurm/hpsearch.sbatch", "cloud/node-environment"):
        assert "ray.env" in (DEPLOY / place).read_text(), place
