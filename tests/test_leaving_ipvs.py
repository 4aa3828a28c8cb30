"""``kpsim migrate`` and ``kpsim diff`` from ipvs mode: each known difference has its reason, and what no packet shows is said.

The one comparison that these tests ask about is of the cluster of docs/leaving-ipvs.md. That boxes are exact in this mode is asked of
packets in ``tests/properties/test_boxes.py``.
"""

from pathlib import Path
from typing import Any

import pytest

import kpsim
from kpsim.addresses import Family
from kpsim.comparison.behaviour.reasons import codes
from kpsim.errors import InputError
from kpsim.ipvs.schedulers import SCHEDULERS, Candidate, Request, pick
from kpsim.ipvs.servers import RealServer
from kpsim.migration.assessment import Comparison, assess
from kpsim.migration.page import page
from kpsim.migration.spread import CLIENTS, CONNECTIONS, spread
from kpsim.migration.writing import as_text

CLUSTER = Path(__file__).resolve().parent.parent / "docs" / "leaving-ipvs.yaml"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return kpsim.migrate(kpsim.load([CLUSTER]), "nftables").to_json()


def rows(found: dict[str, Any], see: str) -> list[dict[str, Any]]:
    return [row for group in found["differences"] if group["see"] == see for row in group["rows"]]


def senders(row: dict[str, Any]) -> list[str]:
    return [each["sender"] for each in row["from"]]


def test_a_process_of_the_node_sends_from_the_services_own_address(found: dict[str, Any]) -> None:
    told = rows(found, "IPVS-3.5")
    # what it sends to the cluster IP is masqueraded in both modes, since neither source is a pod's
    assert [row["dst"] for row in told if senders(row) == ["node"]] == [["203.0.113.10/32"]]
    assert {row["effect"] for row in told} == {"ends in another way"}


def test_health_check_node_ports_answer_at_every_address_of_a_service(found: dict[str, Any]) -> None:
    told = rows(found, "IPVS-8.4")
    ports = {tuple(map(tuple, packets["dport"])) for row in told for packets in row["packets"]}
    assert ((32000, 32000),) in ports


def test_pings_and_other_ports_of_a_load_balancer_address_are_no_longer_refused(found: dict[str, Any]) -> None:
    told = rows(found, "IPVS-15")
    assert {row["today"].partition(" ")[0] for row in told} == {"refused"}
    assert ["203.0.113.10/32"] in [row["dst"] for row in told]


def test_with_local_pods_and_the_node_get_all_endpoints(found: dict[str, Any]) -> None:
    told = [row for row in rows(found, "IPVS-5.2") if row["dst"] == ["203.0.113.10/32"]]
    assert {sender for row in told for sender in senders(row)} <= {"pod", "node"}


def test_nothing_is_left_to_a_difference_without_a_name(found: dict[str, Any]) -> None:
    assert [group["why"] for group in found["differences"] if group["why"] == "the proxy modes differ"] == []


def test_options_of_ipvs_are_dropped_by_name(found: dict[str, Any]) -> None:
    document = found["configuration"]["document"]
    assert document["mode"] == "nftables" and "ipvs" not in document
    assert document["nodePortAddresses"] == ["0.0.0.0/0", "::/0"]
    paths = {each["path"] for each in found["configuration"]["settings"]}
    assert {"ipvs.strictARP", "ipvs.excludeCIDRs"} <= paths


def test_costs_count_virtual_servers(found: dict[str, Any]) -> None:
    # 10.96.0.10, 203.0.113.10, and the node port at 192.168.0.1 and at the bridge's 10.244.1.1 (IPVS-4.1, IPVS-4.2)
    before, after = found["costs"]["ipvs"], found["costs"]["nftables"]
    assert (before["virtualServers"], before["realServers"]) == (4, 8)
    assert (after["virtualServers"], after["realServers"]) == (0, 0)
    assert before["firstSyncSeconds"] is None and before["firstPacketMicroseconds"] == {}


# --- what no first packet shows: asked of a cluster whose packets are not compared --------------------------------------


def titles(text: str, target: str) -> list[str]:
    found = assess(kpsim.load(text=text), target, lambda a, b: Comparison(0, ()))
    assert as_text(page(found))
    return [remark.title for remark, _ in found.remarks]


STRICT_ARP = "strictARP is no longer needed"
EXCLUDED = "Virtual servers of other programs go, excludeCIDRs or not"
ARP = "Nodes no longer answer ARP for these addresses"
LEFT = "What ipvs mode left stays until somebody removes it"
AFFINITY = "Session affinity starts anew, and means something else"


def test_remarks_are_about_this_cluster() -> None:
    text = CLUSTER.read_text("utf-8")
    told = titles(text, "nftables")
    assert {STRICT_ARP, EXCLUDED, AFFINITY} <= set(told) and ARP not in told and LEFT not in told
    other = text.replace("strictARP: true", "strictARP: false").replace("excludeCIDRs: [192.168.0.100/32]", "")
    told = titles(other.replace("sessionAffinity: ClientIP", "sessionAffinity: None"), "nftables")
    assert ARP in told and not {STRICT_ARP, EXCLUDED, AFFINITY} & set(told)


def test_iptables_mode_leaves_what_ipvs_mode_left() -> None:
    # only a kube-proxy that starts in nftables mode removes it (NFT-8.14)
    assert LEFT in titles(CLUSTER.read_text("utf-8"), "iptables")


def test_nobody_is_led_into_ipvs_mode() -> None:
    cluster = kpsim.load([CLUSTER], mode="iptables")
    with pytest.raises(InputError, match=r"deprecated.*IPVS-1\.5"):
        assess(cluster, "ipvs", lambda a, b: Comparison(0, ()))


# --- how evenly schedulers spread ---------------------------------------------------------------------------------------


def test_round_robin_is_even_at_one_node_and_less_so_at_many() -> None:
    assert spread(("rr", "lc"), 1, 3).scheduled == {"rr": 334, "lc": 334}  # the least that 1,000 over 3 can be
    busiest = spread(("rr",), 20, 10).scheduled["rr"]
    assert busiest is not None and 100 < busiest <= 100 + 20  # each node is at most one ahead for the first endpoint


def test_a_hash_of_the_client_spreads_clients_not_connections() -> None:
    # with as many endpoints as clients, some endpoint has two clients, each with about a hundredth of the connections
    busiest = spread(("sh",), 3, 50).scheduled["sh"]
    assert busiest is not None and busiest >= 2 * CONNECTIONS // CLIENTS


def test_a_scheduler_that_refuses_is_said_to() -> None:
    assert spread(("ovf",), 1, 3).scheduled == {"ovf": None}  # every server has two active connections (IPVS-14)


# --- what a class of clients gets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_of_clients_with_any_address_every_server_gets_a_share(scheduler: str) -> None:
    servers = [Candidate(RealServer(10, 80)), Candidate(RealServer(11, 80, weight=0)), Candidate(RealServer(12, 80))]
    request = Request(Family.IPV4, (1, 1), 2, of_one=False)
    picked = [pick(scheduler, servers, request, None, lambda limit, each=each: each).server for each in range(3)]  # type: ignore[misc]
    assert [each and each.address for each in picked] == [
        10,
        None,
        12,
    ]  # who hashes to a draining server is refused (IPVS-14)
    one = pick(scheduler, servers, request._replace(of_one=True), None, lambda limit: pytest.fail("it is no draw"))
    assert one.why


def test_every_scheduler_that_hashes_the_client_is_known_as_one() -> None:
    assert {name for name, kind in SCHEDULERS.items() if kind.hashes_client} == {"sh", "mh"}


def test_reasons_have_codes_that_allow_takes() -> None:
    assert {
        "local-fallback",
        "short-circuit",
        "node-source",
        "service-source",
        "scheduler",
        "health-check-node-port",
    } <= set(codes())
