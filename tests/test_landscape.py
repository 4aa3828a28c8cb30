"""Nodes that stand for each other: which do, what tells them apart, and that some of them stand for all.

That boxes are the same as those of a comparison node by node is asked of random clusters by ``make fuzz SUBJECT=diff``, too.
"""

import json
from pathlib import Path
from typing import Any

import pytest

import kpsim
from fuzz.comparing import regions
from kpsim.addresses import Family
from kpsim.comparison.behaviour import differences
from kpsim.comparison.behaviour.following import Followed
from kpsim.comparison.behaviour.landscape import landscape
from kpsim.comparison.behaviour.narrowing import check_memory
from kpsim.comparison.behaviour.report import Subject, report
from kpsim.comparison.behaviour.spaces import only
from kpsim.comparison.behaviour.starts import Start
from kpsim.config import Mode, config_from_json
from kpsim.errors import InputError
from kpsim.explore import Cluster
from kpsim.tracing.probes import ProbeResult
from tests.test_alike import service

_CONFIG = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "clusterCIDR": "10.180.0.0/16",
}  # fmt: skip
_WEB = service("web", "172.30.0.1", [("10.180.1.5", 1), ("10.180.2.5", 2)])
_LOCAL = service(
    "api", "172.30.0.2", [("10.180.1.6", 1)], type="NodePort", externalTrafficPolicy="Local",
    ports=[{"port": 80, "targetPort": 8080, "nodePort": 30080}],
)  # fmt: skip


def node(number: int, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}"},
        "spec": {"podCIDRs": [f"10.180.{number}.0/24"], **spec},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.0.{number}"}]},
    }  # fmt: skip


def cluster(
    *services: list[dict[str, Any]], nodes: list[dict[str, Any]], mode: str = "iptables", beside: list[Path | str] | None = None,
    config: dict[str, Any] = _CONFIG,
) -> Cluster:  # fmt: skip
    items = [*nodes, *(item for of in services for item in of), config]
    return kpsim.load(
        text=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}), mode=mode, beside=beside or ()
    )


def groups(loaded: Cluster) -> list[tuple[str, ...]]:
    """The nodes that stand for each other."""
    return list(landscape(loaded.site_with(), Family.IPV4, loaded.now_ns).groups)


THREE = [node(1), node(2), node(3)]
ALL = [("node-1", "node-2", "node-3")]


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize(
    "config", [_CONFIG, {**_CONFIG, "detectLocalMode": "NodeCIDR"}, {**_CONFIG, "clusterCIDR": ""}]
)
def test_plain_nodes_stand_for_each_other_wherever_endpoints_are(mode: str, config: dict[str, Any]) -> None:
    assert groups(cluster(_WEB, _LOCAL, nodes=THREE, mode=mode, config=config)) == ALL


def test_a_node_alone_stands_for_none() -> None:
    assert groups(cluster(_WEB, nodes=THREE[:1])) == []


def test_pods_networks_of_other_sizes_tell_nodes_apart() -> None:
    assert groups(cluster(_WEB, nodes=[node(1), node(2), node(3, podCIDRs=["10.180.3.0/25"])])) == [ALL[0][:2]]


def test_the_modes_of_nodes_tell_them_apart() -> None:
    loaded = cluster(_WEB, nodes=THREE)
    mixed = loaded.with_config(config_from_json(loaded.document, mode=Mode.NFTABLES), "node-2")
    assert groups(mixed) == [("node-1", "node-3")]
    assert groups(loaded.with_config(config_from_json(loaded.document, mode=Mode.IPVS), "node-2")) == []


_RULES = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD {match}
COMMIT
"""


@pytest.mark.parametrize(
    ("match", "on", "expected"),
    [
        ("-p tcp -m tcp --dport 22 -j DROP", "", ALL),
        ("-s 10.180.0.0/16 -p tcp -m tcp --dport 22 -j DROP", "", ALL),
        ("-p tcp -m tcp --dport 22 -j DROP", "node-2=", [("node-1", "node-3")]),
        ("-s 10.180.3.0/24 -j DROP", "", [ALL[0][:2]]),  # names what is a node's alone
        ("-s 10.180.3.64/26 -j DROP", "", ALL),  # a part of it has a label that no other node has
        ("-d 172.30.0.1/32 -j DROP", "node-2=", ALL),  # a packet for no Service never matches
        ("-d 172.30.0.3/32 -j DROP", "node-2=", [("node-1", "node-3")]),
        ("-m conntrack --ctorigdst 10.180.1.5 -j DROP", "", []),  # not compared
    ],
)
def test_rules_of_others(match: str, on: str, expected: list[tuple[str, ...]], tmp_path: Path) -> None:
    rules = tmp_path / "rules.v4"
    rules.write_text(_RULES.format(match=match))
    assert groups(cluster(_WEB, nodes=THREE, beside=[f"{on}{rules}"])) == expected


def test_rules_that_translate_others_packets_are_not_compared(tmp_path: Path) -> None:
    rules = tmp_path / "rules.v4"
    rules.write_text(
        "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 81 -j REDIRECT --to-ports 82\nCOMMIT\n"
    )
    assert groups(cluster(_WEB, nodes=THREE, beside=[rules])) == []


def test_pods_of_which_something_is_known_have_labels_of_their_own() -> None:
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-2", "namespace": "shop"},
        "spec": {"nodeName": "node-1", "containers": [{"name": "x", "image": "x", "ports": [{"containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": "10.180.1.5", "podIPs": [{"ip": "10.180.1.5"}]},
    }  # fmt: skip
    loaded = cluster(_WEB, [pod], nodes=THREE)
    land = landscape(loaded.site_with(), Family.IPV4, loaded.now_ns)
    address = (10 << 24) + (180 << 16) + (1 << 8) + 5
    assert land.groups == tuple(ALL)
    [label] = [label for label, values in land.ground["node-1"].items() if (address, address) in values]
    assert label not in land.ground["node-2"]


# --- some stand for all -------------------------------------------------------------------------------------------------


@pytest.fixture
def pings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "_PROTOCOLS", ())


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[Followed]:
    """All that follow packets."""
    made: list[Followed] = []

    class Noted(Followed):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            made.append(self)

    monkeypatch.setattr(differences, "Followed", Noted)
    return made


def _both(*services: list[dict[str, Any]], **of: Any) -> tuple[Subject, Subject]:
    a, b = (Subject.of(cluster(*services, mode=mode, **of)) for mode in ("iptables", "nftables"))
    return a, b


@pytest.mark.usefixtures("pings_alone")
@pytest.mark.parametrize("match", ["-s 10.180.0.0/16 -d 10.0.0.0/8 -p icmp -j DROP", "-s 10.180.3.64/26 -j REJECT"])
def test_boxes_are_those_of_a_comparison_node_by_node(match: str, tmp_path: Path, followed: list[Followed]) -> None:
    """Rules beside, of one side only, make packets from pods to pods fare differently."""
    rules = tmp_path / "rules.v4"
    rules.write_text(_RULES.format(match=match))
    sides = Subject.of(cluster(_WEB, nodes=THREE)), Subject.of(cluster(_WEB, nodes=THREE, beside=[rules]))
    together, apart = report(*sides), report(*sides, by_node=True)
    assert together.to_json()["differences"] == apart.to_json()["differences"]
    assert len(together.records) > 0
    few, many = (sum(each.packets for each in of if each.family is Family.IPV4) for of in (followed[:4], followed[4:]))
    assert few < many


@pytest.mark.usefixtures("pings_alone")
def test_one_node_that_differs(tmp_path: Path) -> None:
    loaded = cluster(_WEB, nodes=THREE)
    mixed = loaded.with_config(config_from_json(loaded.document, mode=Mode.NFTABLES), "node-2")
    sides = Subject.of(loaded), Subject.of(mixed)
    assert regions(report(*sides)) == regions(report(*sides, by_node=True))


@pytest.mark.usefixtures("pings_alone")
def test_a_node_that_draws_what_becomes_of_packets_that_it_passes_on(tmp_path: Path) -> None:
    rules = tmp_path / "rules.v4"
    match = "-d 10.180.2.0/25 -m statistic --mode random --probability 0.50000000000 -j DROP"
    rules.write_text(_RULES.format(match=match))
    sides = Subject.of(cluster(_WEB, nodes=THREE[:2])), Subject.of(cluster(_WEB, nodes=THREE[:2], beside=[rules]))
    together, apart = report(*sides), report(*sides, by_node=True)
    assert together.to_json()["differences"] == apart.to_json()["differences"]
    assert all(sum(odds for _, odds in fate.exchange) == 1 for each in together.records for fate in each.fates)


_ROUTED = service("far", "172.30.0.4", [("10.180.1.6", 1), ("10.99.0.1", 1)])


@pytest.mark.parametrize("order", [1, -1])
def test_a_bridge_switches_to_its_subnet_alone(order: int) -> None:
    """K-2.6, K-7.3: a bridge does not look at the source of what it switches; what is routed there has its source checked."""
    loaded = cluster(_ROUTED, nodes=THREE)
    followed = Followed(loaded.site_with(), Family.IPV4, loaded.now_ns, by_node=True)
    neighbour, routed = (10 << 24) + (180 << 16) + (1 << 8) + 9, (10 << 24) + (99 << 16) + 1
    found = {}
    for destination in (neighbour, routed)[::order]:
        region = only((127 << 24) + 1), only(destination), only(80), (), ()
        [(_, ways)] = followed.ways(Start("node-1", "tcp", "cni0"), region)
        found[destination] = [way.leaf.result for way in ways]
    assert found == {neighbour: [ProbeResult.PASSED], routed: [ProbeResult.DROPPED]}


# --- some Services alone ------------------------------------------------------------------------------------------------


def test_what_is_said_of_one_service_is_what_is_said_of_it_among_all() -> None:
    sides = _both(_WEB, _LOCAL, nodes=THREE[:1])
    whole, alone = report(*sides), report(*sides, services=["shop/api"])

    def told(of: Any) -> list[Any]:
        return [{**each.to_json(), "probe": ""} for each in of.records if each.service.startswith("shop/api")]

    assert told(alone) == told(whole) != []
    assert {each.service.partition(":")[0] for each in alone.records} == {"shop/api"}
    with pytest.raises(InputError, match="--service shop/none: no Service"):
        report(*sides, services=["shop/none"])


def test_many_services_that_share_endpoints_are_refused() -> None:
    shared = [("10.180.1.5", 1), ("10.180.2.5", 2)]
    state = cluster(*(service(f"s{n}", f"172.30.1.{n}", shared) for n in range(1, 31)), nodes=THREE).state
    check_memory((state, state), 3, ())
    with pytest.raises(
        InputError, match=r"30 Services share endpoints .*shop/s1, .*; .* about 4 GiB: .* at most 13 .* --service"
    ):
        check_memory((state, state), 100, ())
    check_memory((state, state), 100, ["shop/s7"])
