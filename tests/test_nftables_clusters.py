"""Clusters in nftables mode: their rules as text, what loading says of them, recordings of one mode replayed in another."""

import json
from pathlib import Path

import pytest
from nftables_tables import nft_rig
from proxiers import endpoint_slice, service
from shop import cluster_text

import kpsim
from kpsim.addresses import Family
from kpsim.config import Mode
from kpsim.dialects import Form
from kpsim.dialects.iptables import parse
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.programmed import Programmed
from kpsim.recording import load_recording
from kpsim.replay import Replay
from kpsim.ruleset import united

SERVICE_CIDR = """
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [172.30.0.0/16, "fd00:172:30::/112"]}
"""
GOLDEN = Path(__file__).parent / "golden"
DROP = 'ip daddr 172.30.0.0/16 drop comment "Drop traffic to unallocated ClusterIPs"'


def notes(text: str, mode: str) -> list[str]:
    return [note for note in kpsim.load(text=text, mode=mode).notes if "ServiceCIDR" in note]


def test_a_missing_service_cidr_is_told_in_the_mode_that_reads_it() -> None:  # NFT-5.9
    (note,) = notes(cluster_text(), "nftables")
    assert note == (
        "there is no ServiceCIDR (kubectl get servicecidrs -o yaml gives it): packets to unallocated cluster IPs are not dropped "
        "here, as kube-proxy in nftables mode drops them"
    )
    assert notes(cluster_text(), "iptables") == []
    assert notes(cluster_text() + SERVICE_CIDR, "nftables") == []


def test_a_service_cidr_is_in_the_first_full_sync() -> None:  # NFT-1.10
    rules = str(kpsim.load(text=cluster_text() + SERVICE_CIDR, mode="nftables").rules("node-1", family=Family.IPV4))
    assert f"\t\t{DROP}" in rules.splitlines()
    without = str(kpsim.load(text=cluster_text(), mode="nftables").rules("node-1", family=Family.IPV4))
    assert "unallocated" not in without


FIREWALL = """\
table ip firewall {
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport 22 accept
	}
}
"""


@pytest.mark.parametrize("form", Form)
def test_affinity_sets_are_read_again_from_their_text(form: Form) -> None:
    rig = nft_rig()
    timeout = {"clientIP": {"timeoutSeconds": 60}}
    rig.apply(service(sessionAffinity="ClientIP", sessionAffinityConfig=timeout), endpoint_slice())
    ruleset = rig.sync().held.ruleset
    assert any(name.startswith("affinity-") for name in ruleset.table("kube-proxy").sets)
    assert DIALECT.parse(DIALECT.render(ruleset, form), ruleset.family) == (ruleset,)


def test_the_mode_saves_the_tables_that_nft_manages() -> None:
    cluster = kpsim.load(text=cluster_text(), mode="nftables")
    proxier = cluster.proxier("node-1", Family.IPV4)
    (firewall,) = DIALECT.parse(FIREWALL)
    iptables = parse("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -j ACCEPT\nCOMMIT\n", Family.IPV4)
    beside = Programmed.of(united(united(firewall, iptables), proxier.held.ruleset))
    saved = proxier.backend.save(beside)
    assert [line for line in saved.splitlines() if line.startswith("table")] == [
        "table ip firewall {", "table ip kube-proxy {"
    ]  # fmt: skip
    assert FIREWALL in saved
    assert proxier.backend.flush(beside).ruleset.tables == united(firewall, iptables).tables


@pytest.mark.parametrize("name", ["faults-003", "special-003"])
def test_a_recording_is_replayed_in_another_mode(name: str) -> None:
    """Services, endpoints and syncs are the same in both modes; a flush of iptables is none of nftables."""
    modes = {}
    for mode in (Mode.IPTABLES, Mode.NFTABLES):
        recording = load_recording(GOLDEN / "nftables" / f"{name}.recording.jsonl", mode=mode)
        modes[mode] = [json.loads(outcome.to_line()) for outcome in Replay(recording).outcomes()]
    for one, other in zip(modes[Mode.IPTABLES], modes[Mode.NFTABLES], strict=True):
        assert one["success"] is other["success"] is True
        assert one["conntrackDeleted"] == other["conntrackDeleted"]
        assert set(other["nftables"]) == {"transactions", "ruleset"}
        assert "iptables" not in other and "nftables" not in one
    assert all(outcome["success"] for outcome in modes[Mode.NFTABLES])


def test_what_a_recording_says_of_iptables_is_not_used() -> None:
    recording = load_recording(GOLDEN / "nftables" / "special-003.recording.jsonl")
    told = "\n".join(Replay(recording).notes)
    for name in ("iptablesFlushed", "nfacct", "randomFully"):
        assert f"kube-proxy in nftables mode has no use for host.{name}" in told
    assert "serviceCIDRs" not in told
