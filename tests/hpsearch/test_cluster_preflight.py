"""What the answers of a cluster mean: each fault is told by name, with its place and remedy."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from hpsearch.cluster_config import Cluster
from hpsearch.cluster_jobs import Node
from hpsearch.cluster_preflight import Preflight, preflight
from hpsearch.cluster_probe import versions
from hpsearch.cluster_submit import _words
from hpsearch.finding import Finding
from hpsearch.spec import Spec
from search_spaces.errors import UserError

HEAD, WORKER = Node("head", "0", True, 0, 0, 2**34), Node("worker", "1", False, 4, 0, 2**34)


def answer() -> dict[str, Any]:
    """Of a fit cluster."""
    node = {
        "name": "worker",
        "versions": versions(),
        "mlflow_fault": "",
        "storage_fault": "",
        "corpus_id": "c0ffee",
        "corpus_fault": "",
    }
    return {
        "versions": versions(),
        "ledger_fault": "",
        "search_state": "absent",
        "is_same_search": False,
        "storage_fault": "",
        "nodes": [node, {**copy.deepcopy(node), "name": "other"}],
    }


class Answering:
    """Stands for a cluster's jobs; tests/test_cluster.py has real ones."""

    def __init__(self, answer: dict[str, Any], nodes: tuple[Node, ...] = (HEAD, WORKER)) -> None:
        self.answer, self.nodes = answer, nodes
        self.ray_version = versions()["ray"]
        self.cluster = Cluster("lab", "http://lab", "5ecret", "lab.token")

    def ask(self, *given: object) -> dict[str, Any]:
        return self.answer


def faults(jobs: Any, spec: Spec) -> list[str]:
    found = preflight(jobs, spec, None)
    return [f"{finding.name}: {finding.text}" for finding in found.findings if not finding.ok]


def test_a_gpu_that_is_wanted_has_to_be_there(tiny_spec: Spec) -> None:
    wanted = tiny_spec.model_copy(update={"device": tiny_spec.device.model_copy(update={"kind": "cuda"})})
    assert faults(Answering(answer()), wanted) == [
        "resources: device.kind is cuda and no live node has a GPU; start one, or say auto"
    ]
    assert faults(Answering(answer(), (HEAD, replace(WORKER, gpus=1))), wanted) == []


def test_a_fit_cluster_has_no_faults(tiny_spec: Spec) -> None:
    assert faults(Answering(answer()), tiny_spec) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("mlflow_fault", "answers 403", "mlflow: answers 403 (at other)"),
        ("storage_fault", "no such folder", "storage: no such folder (at other)"),
        ("corpus_fault", "package click is missing", "text: other: package click is missing"),
        ("corpus_id", "decaf", "text: must be the same on every node, got c0ffee, decaf; install"),
    ],
)
def test_a_fault_of_one_node_is_told_with_its_name(tiny_spec: Spec, key: str, value: str, said: str) -> None:
    told = answer()
    told["nodes"][1][key] = value
    [fault] = faults(Answering(told), tiny_spec)
    assert fault.startswith(said)


def test_the_drivers_faults_are_told(tiny_spec: Spec) -> None:
    told = {**answer(), "ledger_fault": "the database does not answer", "storage_fault": "not the same folder"}
    assert faults(Answering(told), tiny_spec) == [
        "ledger: the database does not answer",
        "storage: not the same folder (at the driver)",
    ]


def test_other_versions_are_told_and_a_local_build_is_the_same_version(tiny_spec: Spec) -> None:
    told = answer()
    told["nodes"][0]["versions"]["torch"] = versions()["torch"].partition("+")[0] + "+cu130"
    told["nodes"][1]["versions"]["hpsearch"] = "99.0"
    [fault] = faults(Answering(told), tiny_spec)
    assert f"hpsearch {versions()['hpsearch']} here, 99.0 at other" in fault and "torch" not in fault


def test_a_cluster_without_anything_to_train_on_is_not_asked_further(tiny_spec: Spec) -> None:
    jobs = Answering({}, nodes=(HEAD,))
    assert faults(jobs, tiny_spec) == ["resources: no live node has a CPU or GPU to train on; start worker nodes"]
    jobs = Answering(answer())
    jobs.ray_version = "2.0.0"
    assert faults(jobs, tiny_spec)[0].startswith("ray: must be the same here and there")


def test_all_faults_are_told_at_once() -> None:
    found = Preflight([Finding("token", True, ""), Finding("mlflow", False, "down"), Finding("text", False, "gone")])
    with pytest.raises(UserError, match="^cluster lab: mlflow: down\ncluster lab: text: gone$"):
        found.check("lab")


@pytest.mark.parametrize(
    ("state", "same", "resume", "words"),
    [
        ("absent", False, False, ["on-cluster", "run"]),
        ("resumable", True, False, ["resume", "tiny"]),
        ("resumable", False, True, ["resume", "tiny"]),
        ("resumable", False, False, "does not describe; choose another --name, or --resume"),
        ("absent", False, True, "the cluster's ledger has no such search"),
        ("running", True, True, "a driver runs it already"),
        ("complete", True, False, "is complete; choose another --name"),
    ],
)
def test_a_search_begins_goes_on_or_is_refused(
    tiny_spec: Spec, state: str, same: bool, resume: bool, words: list[str] | str
) -> None:
    found = Preflight([], state, same)
    if isinstance(words, str):
        with pytest.raises(UserError, match=words):
            _words(tiny_spec, found, resume)
    else:
        assert _words(tiny_spec, found, resume)[:2] == words
