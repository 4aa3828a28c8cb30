"""What a verification in ipvs mode asks of a kernel without ip_vs, and what it says that it leaves out."""

from collections import Counter
from dataclasses import replace

from ipvs_nodes import marking_rules, told, virtual
from packets import CLUSTER_IP, OTHER_POD, POD, ip, packet, rule, ruleset, table

from kpsim.ipvs.connections import IpvsTable
from kpsim.lab.tools.variants import Variant
from kpsim.maps import Map
from kpsim.ruleset import ACCEPT, DROP, Field, equal
from kpsim.tracing.probes import ProbeResult
from kpsim.verify.balanced import taken_by, without_ipvs
from kpsim.verify.report import Report
from kpsim.verify.verification import Verification

TCP = (CLUSTER_IP, 80, "tcp")


def test_virtual_servers_and_rules_that_ask_of_them_are_not_loaded():
    asks = rule(equal(Field.IPVS_VPORT, 80), DROP)
    full = told(
        {TCP: virtual([POD])}, ruleset(table("filter", OUTPUT=(asks, rule(ACCEPT), asks), INPUT=(rule(ACCEPT),)))
    )
    loaded = without_ipvs(full)
    assert loaded.rules == 2
    assert loaded.told.virtual_servers == Map() and loaded.told.local_addresses == full.local_addresses
    assert loaded.told.ruleset == ruleset(table("filter", OUTPUT=(rule(ACCEPT),), INPUT=(rule(ACCEPT),)))
    plain = replace(full, virtual_servers=Map())
    assert without_ipvs(plain).told is plain


def test_packets_that_reach_a_virtual_server_are_known_by_it():
    from ipvs_nodes import ipvs_node

    netns = ipvs_node(told({TCP: virtual([POD])}, marking_rules()))
    netns.memory.ipvs = IpvsTable(known=False)
    taken = taken_by(netns, packet(OTHER_POD, CLUSTER_IP, came_by="cni0"))
    assert taken is not None and str(taken) == "virtual server 172.30.0.10:80/TCP"
    assert taken_by(netns, packet(OTHER_POD, CLUSTER_IP, 81, came_by="cni0")) is None
    assert taken_by(netns, packet("0.0.0.0", CLUSTER_IP)) is not None
    assert ip(CLUSTER_IP) == taken.key.address and not netns.memory.ipvs


def test_a_report_says_what_was_left_out():
    found = Verification("n1", Counter({ProbeResult.PASSED: 1}), left_out=Counter({"a": 2, "b": 1}), rules_left_out=1)
    report = Report((found,), Variant.NFT, 1.0)
    assert report.left_out == (
        "left out, as this kernel is not asked about ip_vs: 3 probes to 2 virtual servers; rules that ask of ip_vs: 1"
    )
    assert report.to_json()["subjects"][0]["leftOut"] == {"a": 2, "b": 1}
    only = replace(found, left_out=Counter({"a": 2}), rules_left_out=0)
    assert Report((only,), Variant.NFT, 1.0).left_out.endswith("2 probes to 1 virtual server")
    whole = Report((replace(found, left_out=Counter()),), Variant.NFT, 1.0)
    assert whole.left_out == "" and "leftOut" not in whole.to_json()["subjects"][0]
