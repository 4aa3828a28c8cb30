"""Rules of other programs beside kube-proxy's, with every frontend of a cluster: the model and Linux agree."""

from pathlib import Path

import pytest
from shop import cluster_text

from kpsim.config import Mode
from kpsim.explore import load
from kpsim.lab.tools.variants import Variant
from kpsim.verify.runs import systematic, verify
from kpsim.verify.subjects import cluster_subjects

FOREIGN = Path(__file__).parent.parent / "foreign"


@pytest.mark.kernel
@pytest.mark.parametrize("rules", sorted(FOREIGN.glob("*.rules")), ids=lambda file: file.stem)
def test_foreign_rules_agree(rules: Path, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(cluster_text())
    subjects = list(cluster_subjects(load(file, beside=[rules]), ["node-1"]))
    for variant in Variant:
        report = verify(systematic(subjects, repeat=1), variant)
        assert report.agrees, (variant, report.disagreements[:3])
        assert report.probes > 500


FIREWALL = """table inet firewall {
	chain input {
		type filter hook input priority filter - 5; policy drop;
		ct state established,related accept
		tcp dport { 22, 30080 } accept
		meta l4proto { icmp, ipv6-icmp } accept
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state invalid drop
		udp dport 53 reject
	}
}
"""


@pytest.mark.kernel
@pytest.mark.parametrize("mode", [Mode.IPTABLES, Mode.NFTABLES])
def test_a_table_of_nft_for_both_families_agrees(mode: Mode, tmp_path: Path) -> None:
    cluster, beside = tmp_path / "cluster.yaml", tmp_path / "firewall.nft"
    cluster.write_text(cluster_text())
    beside.write_text(FIREWALL)
    report = verify(systematic(cluster_subjects(load(cluster, mode=mode, beside=[beside]), ["node-1"]), repeat=1))
    assert report.agrees, report.disagreements[:3]
    assert report.probes > 1000
    assert {tool for each in report.tools for tool in each.split(" and ")} >= {"nft"}
