"""``kpsim verify`` as its users run it: built-in and drawn clusters agree with this machine's kernel."""

import json
from pathlib import Path
from typing import Any

import pytest
import two_homes
from shop import cluster_text

from fuzz import hostile
from kpsim.config import Mode
from kpsim.lab.tools.variants import Variant
from kpsim.scenarios import scenario_names
from kpsim.verify.runs import drawn, systematic, verify
from kpsim.verify.subjects import load_subjects

pytestmark = pytest.mark.kernel

#: its rules are those of any cluster, ten thousand times
LARGE = "large-cluster"


def run(*arguments: object, code: int = 0) -> str:
    done = hostile.run(["verify", *map(str, arguments)], 300)
    assert (done.code or 0) == code, done.said
    return done.out + (done.err if code else "")


def report(*arguments: object, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--format", "json", code=code))
    return found


@pytest.mark.parametrize("name", [name for name in scenario_names() if name != LARGE])
def test_every_built_in_scenario_agrees(name: str) -> None:
    """Each other moment is asked in each variant of iptables: the rules of a scenario differ less than the variants do."""
    subjects = list(load_subjects([name], moments=3))
    for place, variant in enumerate(Variant):
        found = verify(systematic(subjects[place::2], repeat=1), variant)
        assert found.agrees, (variant, found.disagreements[:3])
        assert found.probes > 50
        results = {result for each in found.verifications for result in each.results}
        # what ip_vs delivers is left out: no kernel at hand has it
        assert results & {"delivered", "rejected"}
        assert "passed" in results


def test_a_node_with_two_interfaces_agrees_by_each(tmp_path: Path) -> None:
    """With a strict reverse path filter: what comes in by vlan17 from elsewhere is dropped (K-7.3)."""
    file = tmp_path / "two-homes.yaml"
    file.write_text(two_homes.HEAD + two_homes.FAR)
    subjects = list(load_subjects([file], settings=[two_homes.STRICT], nodes=["n1"]))
    found = verify(drawn(subjects, 400, 20261130))
    assert found.agrees, found.disagreements[:3]
    delivered, dropped = (
        sum(each.results.get(kind, 0) for each in found.verifications) for kind in ("delivered", "dropped")
    )
    assert len(found.verifications) == 2 and delivered > 100 and dropped > 20


@pytest.mark.parametrize("name", ["affinity-nat", "terminating-endpoints"])
def test_built_in_scenarios_agree_in_nftables_mode(name: str) -> None:
    subjects = list(load_subjects([name], mode=Mode.NFTABLES, moments=2))
    found = verify(systematic(subjects, repeat=1))
    assert found.agrees, found.disagreements[:3]
    assert found.tools == ("nft",)
    assert found.probes > 100
    assert {"delivered", "rejected", "passed"} <= {result for each in found.verifications for result in each.results}


def test_a_scenario_is_asked_by_its_name() -> None:
    found = report("stale-udp", "--node", "node-1", "--moments", 2, "--repeat", 1, "--backend", Variant.LEGACY)
    assert found["agrees"] and found["disagreements"] == []
    assert found["backend"] == Variant.LEGACY
    assert all(subject["name"].startswith("stale-udp · node-1 · IPv4 · ") for subject in found["subjects"])


@pytest.mark.parametrize("variant", list(Variant))
def test_random_clusters_agree(variant: Variant) -> None:
    found = report("--random", 180, "--clusters", 3, "--seed", 20261124, "--backend", variant)
    assert found["agrees"]
    assert 120 <= found["probes"] <= 300  # pauses and changes are steps of a sequence but no probes, a crowd is many
    results = {result for subject in found["subjects"] for result in subject["results"]}
    assert results == {"delivered", "rejected", "dropped", "passed"}


def test_random_clusters_agree_in_nftables_mode() -> None:
    found = report("--mode", "nftables", "--random", 180, "--clusters", 3, "--seed", 20261130)
    assert found["agrees"]
    assert 120 <= found["probes"] <= 300
    assert {tool for each in found["tools"] for tool in each.split(" and ")} == {"nft", "iptables-nft"}
    results = {result for subject in found["subjects"] for result in subject["results"]}
    assert results == {"delivered", "rejected", "dropped", "passed"}


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    file = tmp_path / "cluster.yaml"
    file.write_text(cluster_text())
    return file


def test_a_cluster_is_asked_at_every_frontend_and_its_draws_are_judged(cluster: Path) -> None:
    found = report(cluster, "--node", "node-1", "--repeat", 30)
    assert found["agrees"]
    assert {subject["name"] for subject in found["subjects"]} == {"node-1 · IPv4", "node-1 · IPv6"}
    results = {result for subject in found["subjects"] for result in subject["results"]}
    assert results == {"delivered", "rejected", "dropped", "passed"}  # so that agreement means something
    assert found["draws"] and all(len(draw["weights"]) > 1 for draw in found["draws"])


def test_probes_of_a_file_are_sent_as_they_are(cluster: Path, tmp_path: Path) -> None:
    probes = tmp_path / "probes.jsonl"
    lines = [
        {"id": "a", "node": "node-1", "from": "external", "dst": "172.30.0.10", "dport": 80},
        {"id": "b", "node": "node-2", "from": "pod", "dst": "172.30.0.10", "dport": 80, "protocol": "UDP"},
    ]
    probes.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = report(cluster, "--probes", probes)
    assert [(subject["name"], subject["probes"]) for subject in found["subjects"]] == [
        ("node-1 · IPv4", 1), ("node-2 · IPv4", 1),
    ]  # fmt: skip


def test_a_table_tells_what_agrees(cluster: Path) -> None:
    text = run(cluster, "--node", "node-1", "--random", 60)
    assert text.splitlines()[0].split()[:3] == ["subject", "probes", "delivered"]
    assert "does what the model says" in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--random N for random clusters"),
        (("nosuch",), "neither a file nor a built-in scenario"),
        (("local-rollout", "--node", "node-9"), "no node 'node-9'"),
        (("--random", "5", "--node", "node-1"), "--node goes with scenarios or a cluster"),
        (("local-rollout", "--clusters", "2"), "--clusters goes with random clusters"),
        (("local-rollout", "--probes", "-", "--random", "3"), "either --probes or --random"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[str, ...], words: str) -> None:
    assert words in run(*arguments, code=2)
