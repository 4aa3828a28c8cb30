"""Services and endpoints that are alike: which are, what tells them apart, and that one of them stands for the others.

That boxes hold exactly the packets that fare differently is asked of random clusters by ``make fuzz SUBJECT=diff``, and here of
clusters with several Services of one kind.
"""

import json
from pathlib import Path
from typing import Any

import pytest

import kpsim
from fuzz.comparing import answered, regions
from kpsim.addresses import Family, format_ip
from kpsim.comparison.behaviour import differences
from kpsim.comparison.behaviour.alike import NONE, Alike, alike
from kpsim.comparison.behaviour.boxes import Box
from kpsim.comparison.behaviour.cells import joined
from kpsim.comparison.behaviour.differences import _At, compare
from kpsim.comparison.behaviour.frontends import Frontends
from kpsim.comparison.behaviour.report import Subject, report
from kpsim.comparison.behaviour.spaces import lacking

_NODES = [
    {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}"},
        "spec": {"podCIDRs": [f"10.180.{number}.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.0.{number}"}]},
    }
    for number in (1, 2)
]  # fmt: skip
_CONFIG = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "clusterCIDR": "10.180.0.0/16",
}  # fmt: skip


def service(name: str, ip: str, endpoints: list[tuple[str, int]], **spec: Any) -> list[dict[str, Any]]:
    """A Service and its slice; an endpoint is an address and the number of its node."""
    return [
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIP": ip, "ipFamilies": ["IPv4"], "ports": [{"port": 80, "targetPort": 8080}], **spec},
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": f"{name}-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "nodeName": f"node-{node}"} for address, node in endpoints],
        },
    ]  # fmt: skip


def node_port(number: int) -> dict[str, Any]:
    return {"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080, "nodePort": number}]}


def subjects(
    *services: list[dict[str, Any]], beside: list[Path] | None = None, nodes: int = 2
) -> tuple[Subject, Subject]:
    """A cluster in the two modes."""
    items = [*_NODES[:nodes], *(item for of in services for item in of), _CONFIG]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    sides = [kpsim.load(text=text, mode=mode, beside=beside or ()) for mode in ("iptables", "nftables")]
    return Subject.of(sides[0]), Subject.of(sides[1])


def groups(*services: list[dict[str, Any]], beside: list[Path] | None = None) -> list[list[str]]:
    """The names of Services that are alike."""
    found = _alike(*subjects(*services, beside=beside))
    return [
        [name.partition("/")[2] for each in group for name in each.component.services]
        for group in found.groups
        if len(group) > 1
    ]


def _alike(a: Subject, b: Subject) -> Alike:
    return alike((a.side.site, b.side.site), (a.state, b.state), (Family.IPV4,), a.side.now_ns)


PLAIN = [
    service("a", "172.30.0.1", [("10.180.1.5", 1), ("10.180.2.5", 2)]),
    service("b", "172.30.0.2", [("10.180.1.6", 1), ("10.180.2.6", 2)]),
]


def test_services_of_one_kind_are_alike() -> None:
    assert groups(*PLAIN, service("c", "172.30.0.3", [("10.180.1.7", 1)])) == [["a", "b"]]


def test_node_ports_are_of_the_kind() -> None:
    more = [
        service(name, f"172.30.0.{n}", [(f"10.180.1.{n}", 1)], **node_port(30080 + n))
        for n, name in ((8, "c"), (9, "d"))
    ]
    assert groups(*PLAIN, *more) == [["a", "b"], ["c", "d"]]


def test_services_with_node_ports_are_akin_however_many_endpoints_they_have() -> None:
    few = service("a", "172.30.0.1", [("10.180.1.5", 1), ("10.180.2.5", 2)], **node_port(30081))
    many = service(
        "b", "172.30.0.2", [(f"10.180.{n}.{place}", n) for n in (1, 2) for place in (6, 7)], **node_port(30082)
    )
    [kin] = _alike(*subjects(few, many)).kin
    assert [len(group) for group in kin.groups] == [1, 1]


@pytest.mark.parametrize(
    "other",
    [
        service("b", "172.30.0.2", [("10.180.1.6", 1), ("10.180.1.7", 1)]),  # on another node
        service("b", "172.30.0.2", [("10.180.1.6", 1), ("10.99.0.6", 2)]),  # outside the cluster's network
        service("b", "172.30.0.2", [("10.180.1.6", 1), ("192.168.0.2", 2)]),  # in the host's network
        service("b", "172.30.0.2", [("10.180.1.5", 1), ("10.180.2.6", 2)]),  # an endpoint of both: one component
        service("b", "172.30.0.2", [("10.180.1.6", 1), ("10.180.2.6", 2)], sessionAffinity="ClientIP"),
        service("b", "172.30.0.2", [("10.180.1.6", 1), ("10.180.2.6", 2)], internalTrafficPolicy="Local"),
        service("b", "172.30.0.2", [("10.180.1.6", 1), ("10.180.2.6", 2)], ports=[{"port": 81, "targetPort": 8080}]),
        service("b", "172.30.0.2", [("10.180.1.6", 1), ("10.180.2.6", 2)], externalIPs=["198.51.100.1"]),
        service("b", "172.30.0.2", [("10.180.1.6", 1), ("10.180.2.6", 2)], **node_port(30080)),
    ],
)
def test_what_tells_services_apart(other: list[dict[str, Any]]) -> None:
    assert groups(PLAIN[0], other) == []


_RULES = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD {match} -j DROP
COMMIT
"""


@pytest.mark.parametrize(
    ("match", "alike_"),
    [
        ("-d 10.180.2.0/24 -p tcp -m tcp --dport 8080", True),  # has the endpoints of both
        ("-s 10.180.1.6/32", False),
        ("-d 10.180.2.4/31", False),  # has 10.180.2.5 alone
        ("-s 10.180.1.0/24 -m conntrack --ctorigdst 172.30.0.2", False),
    ],
)
def test_rules_of_others_tell_services_apart(match: str, alike_: bool, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text(_RULES.format(match=match))
    assert bool(groups(*PLAIN, beside=[rules])) is alike_


def boxes(a: Subject, b: Subject, together: Alike) -> dict[object, object]:
    """The packets that fare differently: regions by node, client, protocol and the two results."""
    found: dict[object, list[Any]] = {}
    for each in compare(a.side, b.side, Frontends((a.state, b.state)).divide, together=together).differences:
        box: Box = each.box
        key = box.node, box.sender, box.protocol, each.key, each.a, each.b
        found.setdefault(key, []).append((box.source, box.destination, box.port, (), ()))
    return {key: joined(regions) for key, regions in found.items()}


@pytest.fixture(scope="module")
def shuffled() -> tuple[Subject, Subject]:
    """Two Services whose endpoints are on the same nodes; rules name them in another order."""
    a = service("a", "172.30.0.1", [("10.180.1.5", 1), ("10.180.1.6", 2)])
    b = service("b", "172.30.0.2", [("10.180.1.7", 2), ("10.180.1.8", 1)])
    return subjects(a, b, nodes=1)


def test_one_service_stands_for_another(shuffled: tuple[Subject, Subject]) -> None:
    together = _alike(*shuffled)
    [[one, other]] = together.groups
    assert one.order != other.order
    assert boxes(*shuffled, together) == boxes(*shuffled, NONE)


def test_differences_are_in_the_order_of_their_packets_and_show_answers(shuffled: tuple[Subject, Subject]) -> None:
    found = report(*shuffled).records
    here = [each.box for each in found if (each.box.sender, each.box.protocol) == ("pod", "tcp")]
    places = [(box.destination, box.port, box.source) for box in here]
    assert places == sorted(places)
    for record in found:
        for side, told in zip(shuffled, record.answers, strict=True):
            assert answered(side, record.box, record.numbers) == told


# --- endpoints of one kind ----------------------------------------------------------------------------------------------

_WEB = [("10.180.1.5", 1), ("10.180.1.6", 1), ("10.180.2.5", 2)]


def kinds(*services: list[dict[str, Any]], beside: list[Path] | None = None) -> dict[str, int]:
    """The kind of each endpoint by address; of one that may not be exchanged with others −1."""
    found = _alike(*subjects(*services, beside=beside))
    return {
        format_ip(*address): kind
        for group in found.groups
        for member in group
        for address, kind in zip(member.addresses, member.kinds, strict=True)
    }


def are_of_one_kind(*services: list[dict[str, Any]], beside: list[Path] | None = None) -> bool:
    found = kinds(*services, beside=beside)
    return found.get("10.180.1.5", -1) == found.get("10.180.1.6", -2)


def balancer(**spec: Any) -> dict[str, Any]:
    return {"externalIPs": ["198.51.100.7"], **spec}


def test_endpoints_on_the_same_node_are_of_one_kind() -> None:
    found = kinds(service("web", "172.30.0.1", _WEB), service("api", "172.30.0.2", [("10.180.2.6", 2)]))
    assert found["10.180.1.5"] == found["10.180.1.6"] >= 0
    assert found["10.180.2.5"] == found["10.180.2.6"] != found["10.180.1.5"]
    assert found["172.30.0.1"] == -1


@pytest.mark.parametrize(
    "spec",
    [
        {"sessionAffinity": "ClientIP"},  # rules name endpoints also where they look for those that know the client
        balancer(externalTrafficPolicy="Local", internalTrafficPolicy="Local"),
        {"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]},
    ],
)
def test_settings_of_a_service_leave_its_endpoints_of_one_kind(spec: dict[str, Any]) -> None:
    assert are_of_one_kind(service("web", "172.30.0.1", _WEB, **spec))


@pytest.mark.parametrize(
    "others",
    [
        [service("api", "172.30.0.2", [("10.180.1.5", 1)])],  # an endpoint of two Services
        [service("api", "10.180.1.6", [("10.180.1.9", 1)])],  # one that is a Service's address, too
    ],
)
def test_other_services_tell_endpoints_apart(others: list[list[dict[str, Any]]]) -> None:
    assert not are_of_one_kind(service("web", "172.30.0.1", _WEB), *others)


@pytest.mark.parametrize(
    "change",
    [
        {"conditions": {"ready": False}},
        {"conditions": {"ready": False, "serving": True, "terminating": True}},
        {"nodeName": "node-2"},
        {"addresses": ["192.168.0.1"]},  # in the host's network
    ],
)
def test_what_tells_endpoints_apart(change: dict[str, Any]) -> None:
    web = service("web", "172.30.0.1", _WEB, **balancer(externalTrafficPolicy="Local"))
    web[1]["endpoints"][1] |= change
    assert not are_of_one_kind(web)


@pytest.mark.parametrize(
    ("match", "alike_"),
    [
        ("-d 10.180.1.0/24", True),
        ("-s 10.180.1.6/32", False),
        ("-d 10.180.1.4/31 -p tcp -m tcp --dport 8080", False),
    ],
)
def test_rules_of_others_tell_endpoints_apart(match: str, alike_: bool, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text(_RULES.format(match=match))
    assert are_of_one_kind(service("web", "172.30.0.1", _WEB), beside=[rules]) is alike_


def test_a_pod_that_is_over_is_of_another_kind() -> None:
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-2", "namespace": "shop"},
        "spec": {"nodeName": "node-1", "containers": [{"name": "x", "image": "x"}]},
        "status": {"phase": "Failed", "podIP": "10.180.1.6", "podIPs": [{"ip": "10.180.1.6"}]},
    }  # fmt: skip
    assert not are_of_one_kind(service("web", "172.30.0.1", _WEB), [pod])


# --- what one endpoint of each kind tells -------------------------------------------------------------------------------


def several(**spec: Any) -> list[list[dict[str, Any]]]:
    """Akin Services, with other numbers of endpoints on two nodes."""
    numbers = [(1, 2), (3, 1), (2, 2)]
    return [
        service(
            f"s{place}", f"172.30.0.{place + 1}",
            [(f"10.180.{node}.{10 * place + each + 5}", node) for node in (1, 2) for each in range(of[node - 1])],
            **{name: value(place) if callable(value) else value for name, value in spec.items()},
        )
        for place, of in enumerate(numbers)
    ]  # fmt: skip


@pytest.fixture
def only_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets of the other protocols are for no port of a Service here."""
    monkeypatch.setattr(differences, "_PROTOCOLS", ("tcp",))


def told(a: Subject, b: Subject, *, singly: bool) -> str:
    return json.dumps(report(a, b, singly=singly, by_node=singly).to_json()["differences"])


def _node_ports(place: int) -> list[dict[str, Any]]:
    return [{"port": 80, "targetPort": 8080, "nodePort": 30080 + place}]


@pytest.mark.parametrize(
    "services",
    [
        several(),
        several(type="NodePort", ports=_node_ports, externalTrafficPolicy="Local", sessionAffinity="ClientIP"),
        [
            *several(
                type="LoadBalancer", ports=_node_ports, externalTrafficPolicy="Local",
                healthCheckNodePort=lambda place: 31000 + place, externalIPs=lambda place: [f"198.51.100.{place}"],
            ),
            service("shared", "172.30.0.9", [("10.180.1.5", 1), ("192.168.0.1", 1), ("10.180.1.6", 1)]),
        ],
    ],
)  # fmt: skip
@pytest.mark.usefixtures("only_tcp")
def test_services_with_other_numbers_of_endpoints(
    services: list[list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = subjects(*services, nodes=1)
    singly = told(*sides, singly=True)
    monkeypatch.setattr(_At, "_of_groups", None)  # nothing is followed endpoint by endpoint
    assert told(*sides, singly=False) == singly


@pytest.mark.usefixtures("only_tcp")
def test_rules_that_draw_behind_the_choice_of_an_endpoint(tmp_path: Path) -> None:
    """Both results have the same odds, so that the order of the ways decides which is told."""
    rules = tmp_path / "rules"
    rules.write_text(
        _RULES.format(
            match="-d 10.0.0.0/8 -p tcp -m tcp --dport 8080 -m statistic --mode random --probability 0.50000000000"
        )
    )
    sides = subjects(*several(), beside=[rules], nodes=1)
    assert told(*sides, singly=False) == told(*sides, singly=True)


@pytest.mark.usefixtures("only_tcp")
def test_a_pod_outside_its_bridge_s_subnet() -> None:
    """Packets to it are routed to the bridge, those to its neighbours pass by the bridge alone (K-2.6)."""
    sides = subjects(
        service("web", "172.30.0.1", [("10.180.1.5", 1), ("172.30.0.2", 1)]),
        service("api", "172.30.0.2", [("10.180.1.6", 1)]), nodes=1,
    )  # fmt: skip
    assert regions(report(*sides)) == regions(report(*sides, singly=True, by_node=True))


@pytest.mark.usefixtures("only_tcp")
def test_an_endpoint_that_goes(shuffled: tuple[Subject, Subject]) -> None:
    assert shuffled[0].cluster is not None
    after = shuffled[0].cluster.with_edits("endpointslice/shop/a-1.endpoints=[]")
    sides = shuffled[0], Subject.of(after)
    assert told(*sides, singly=False) == told(*sides, singly=True)


def test_a_set_lacking_another() -> None:
    assert lacking(((0, 9),), ((2, 3), (5, 5))) == ((0, 1), (4, 4), (6, 9))
    assert lacking(((0, 3), (7, 9)), ((2, 8),)) == ((0, 1), (9, 9))
    assert lacking(((4, 5),), ((0, 9),)) == ()
    assert lacking(((4, 5),), ()) == ((4, 5),)
