"""Draws clusters and changes of them, and asks of drawn packets whether ``kpsim diff`` says rightly that they fare alike.

A packet is in exactly one box if the answers of the two sides to its probe differ, and in none if they do not; and the
answers that a difference shows are those to its probe. Most clusters have several Services of one kind, since of Services
that are alike only one is compared (``kpsim.comparison.behaviour.alike``), and of akin ones one for each kind of endpoint
(``kpsim.comparison.behaviour.composing``). What is found must be what a comparison Service by Service finds.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import kpsim
from fuzz.rounds import Rounds, options
from kpsim.addresses import Family
from kpsim.comparison.behaviour.answers import Numbers
from kpsim.comparison.behaviour.asking import Region
from kpsim.comparison.behaviour.boxes import Box
from kpsim.comparison.behaviour.cells import boxes_of
from kpsim.comparison.behaviour.following import first_packet
from kpsim.comparison.behaviour.report import Record, Report, Subject, report
from kpsim.comparison.behaviour.spaces import Values, holds
from kpsim.comparison.behaviour.starts import Start
from kpsim.explore import Cluster
from kpsim.tracing.probes import answer
from kpsim.tracing.site import Sender
from kpsim.verify.drawing.choices import Choices, SeededChoices, chance, pick, weighted

_PROBES = 150  #: of a cluster
_SHOWN = 25  #: answers of differences that are asked again
_ALL = Sender.POD, Sender.NODE, Sender.EXTERNAL, Sender.PEER


# --- clusters -----------------------------------------------------------------------------------------------------------


def cluster_of(draws: Choices) -> str:
    """A cluster as text: a few nodes, a few kinds of Services, some Services of each kind."""
    nodes = 1 + draws.below(3)
    items = [_node(number) for number in range(1, nodes + 1)]
    number = 0
    for _ in range(1 + draws.below(2)):
        kind = _kind(draws)
        for _ in range(1 + draws.below(3)):
            items += _service(draws, kind, number, nodes)
            number += 1
    config = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
    ranges = pick(draws, ["10.180.0.0/16", "10.0.0.0/8", "10.180.1.128/25"])
    items.append({**config, "clusterCIDR": ranges} if chance(draws, 80) else config)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _node(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}"},
        "spec": {"podCIDRs": [f"10.180.{number}.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.0.{number}"}]},
    }  # fmt: skip


def _kind(draws: Choices) -> dict[str, Any]:
    """What Services of one kind have in common."""
    outside = weighted(draws, (4, "ClusterIP"), (3, "NodePort"), (2, "LoadBalancer"))
    spec: dict[str, Any] = {"type": outside, "ipFamilies": ["IPv4"]}
    if chance(draws, 20):
        spec["internalTrafficPolicy"] = "Local"
    if outside != "ClusterIP" and chance(draws, 40):
        spec["externalTrafficPolicy"] = "Local"
    if chance(draws, 20):
        spec["sessionAffinity"] = "ClientIP"
    if outside == "LoadBalancer" and chance(draws, 30):
        spec["loadBalancerSourceRanges"] = [pick(draws, ["203.0.113.0/24", "10.180.1.0/25"])]
    return {
        "spec": spec, "protocol": weighted(draws, (4, "TCP"), (1, "UDP")), "external": chance(draws, 20),
        "endpoints": draws.below(6), "as many": chance(draws, 50), "two": chance(draws, 15),
    }  # fmt: skip


def _service(draws: Choices, kind: dict[str, Any], number: int, nodes: int) -> list[dict[str, Any]]:
    """A Service and its endpoints. Now and then something coincides with what another Service or a node has."""
    names = ["http", "more"] if kind["two"] else ["http"]
    spec: dict[str, Any] = {**kind["spec"], "clusterIP": f"172.30.0.{10 + number}", "ports": []}
    for place, name in enumerate(names):
        port = {"name": name, "protocol": kind["protocol"], "port": 80 + place, "targetPort": 8080}
        if spec["type"] != "ClusterIP":
            port["nodePort"] = 30080 + 2 * number + place
        elif chance(draws, 5):
            port["port"] = 30080  # as a node port of another
        spec["ports"].append(port)
    if spec.get("externalTrafficPolicy") == "Local" and spec["type"] == "LoadBalancer":
        spec["healthCheckNodePort"] = 31000 + (0 if chance(draws, 5) else number)
    if kind["external"]:
        spec["externalIPs"] = [pick(draws, [f"198.51.100.{10 + number}", f"198.51.100.{10 + number}", "198.51.100.10"])]
    status = (
        {"loadBalancer": {"ingress": [{"ip": f"198.51.100.{100 + number}"}]}} if spec["type"] == "LoadBalancer" else {}
    )
    endpoints: dict[str, dict[str, Any]] = {}
    for place in range(kind["endpoints"] if kind["as many"] else draws.below(6)):
        node = 1 + draws.below(nodes)
        address = f"10.180.{node}.{100 + 6 * number + place}"
        if chance(draws, 8):
            address = pick(draws, ["10.180.1.100", "192.168.0.1", "172.30.0.10", f"10.99.0.{number + 1}"])
        conditions = {"ready": not chance(draws, 10)}
        endpoints[address] = {"addresses": [address], "nodeName": f"node-{node}", "conditions": conditions}
    unique = list(endpoints.values())
    name, envelope = f"s{number}", {"namespace": "shop"}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, **envelope}, "spec": spec, "status": status},
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": f"{name}-1", **envelope, "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": each, "protocol": kind["protocol"], "port": 8080} for each in names], "endpoints": unique,
        },
    ]  # fmt: skip


def changed(draws: Choices, text: str) -> tuple[Cluster, Cluster, str]:
    """A cluster, what it is compared with, and how that differs in words."""
    modes = ["iptables", "nftables"]
    mode = pick(draws, modes)
    before = kpsim.load(text=text, mode=mode)
    if chance(draws, 60):
        other = modes[1 - modes.index(mode)]
        return before, kpsim.load(text=text, mode=other), f"{mode} and {other}"
    edit = pick(draws, [
        "service/shop/s0.spec.externalTrafficPolicy=Local" if next(iter(before.state.services)).type != "ClusterIP" else
        "service/shop/s0.spec.internalTrafficPolicy=Local",
        "endpointslice/shop/s0-1.endpoints=[]",
        "service/shop/s0.spec.sessionAffinity=ClientIP",
    ])  # fmt: skip
    return before, before.with_edits(edit), f"{mode}, {edit}"


# --- packets ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong:
    """A packet of which the comparison says something wrong, or a difference that shows another answer."""

    why: str
    cluster: str

    def __str__(self) -> str:
        return self.why

    def file(self) -> tuple[str, str]:
        return "cluster.json", self.cluster


@dataclass
class Tally:
    """Counts of what was asked, and what was found."""

    clusters: int = 0
    packets: int = 0
    inside: int = 0
    answers: int = 0
    found: list[Wrong] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.clusters} clusters, {self.packets} packets, {self.inside} of them in a box, {self.answers} answers of "
            f"differences, {len(self.found)} wrong"
        )


def fuzz(seed: int, tally: Tally) -> None:
    """Compares one drawn cluster with its change, and asks drawn packets."""
    draws = SeededChoices(seed, "comparing")
    text = cluster_of(draws)
    before, after, words = changed(draws, text)
    found = report(Subject.of(before), Subject.of(after))
    tally.clusters += 1
    together, singly = regions(found), regions(report(found.a, found.b, singly=True, by_node=True))
    if which := [key for key in {**together, **singly} if together.get(key) != singly.get(key)]:
        tally.found.append(Wrong(f"{words}: together and singly {len(which)} differ: {which[0]}", text))
        return
    if not found.records:
        return
    for box, numbers in drawn(found, draws):
        told = [_told(side, box, numbers) for side in (found.a, found.b)]
        here = sum(_is_in(numbers, box, record.box) for record in found.records)
        tally.packets += 1
        tally.inside += here
        if here != (told[0] != told[1]):
            tally.found.append(Wrong(f"{words}: {here} boxes hold {box[:4]} {numbers}: {told[0]} {told[1]}", text))
            return
    for record in _some(found.records, draws):
        asked = tuple(answered(side, record.box, record.numbers) for side in (found.a, found.b))
        tally.answers += 1
        if asked != record.answers:
            tally.found.append(Wrong(f"{words}: {record.probe} shows {record.answers}, answers are {asked}", text))
            return


def regions(found: Report) -> dict[object, list[Region]]:
    """The packets that fare differently, by node, client, protocol and fates. Which Service they are for does not count."""
    gathered: dict[object, list[Region]] = {}
    for record in found.records:
        box = record.box
        region: Region = (box.source, box.destination, box.port, (), ())
        gathered.setdefault((*box[:4], record.fates), []).append(region)
    return {key: boxes_of(each) for key, each in gathered.items()}


def _some(records: Sequence[Record], draws: Choices) -> list[Record]:
    return [records[draws.below(len(records))] for _ in range(_SHOWN)]


def drawn(found: Report, draws: Choices) -> Iterator[tuple[Box, Numbers]]:
    """Packets of boxes, at their edges, beside them and between two of them, each with a box that says whence it comes."""

    def some(values: Values) -> int:
        low, high = values[draws.below(len(values))]
        return low + draws.below(high - low + 1) if chance(draws, 50) else (low, high)[draws.below(2)]

    for _ in range(_PROBES):
        box, other = (found.records[draws.below(len(found.records))].box for _ in range(2))
        if chance(draws, 60):
            other = box
        source, destination, port = some(box.source), some(other.destination), some(other.port)
        if chance(draws, 15):
            source = (source + pick(draws, [1, -1])) % (1 << 32)
        if chance(draws, 15):
            destination = (destination + pick(draws, [1, -1])) % (1 << 32)
        if chance(draws, 10):
            destination = draws.below(1 << 32) if chance(draws, 30) else some(box.source)
        if chance(draws, 15):
            port = port % 65535 + 1
        box = box._replace(sender=pick(draws, _ALL)) if chance(draws, 10) else box
        port = 0 if box.protocol == "icmp" else port or 80
        # a packet that a pod sends to itself, past all Services, is taken to fare as its neighbours do
        if source != destination and (source or box.sender is not Sender.NODE):
            yield box, (source, destination, port)


def _is_in(numbers: Numbers, of: Box, box: Box) -> bool:
    return (
        (of.family, of.node, of.sender, of.protocol) == (box.family, box.node, box.sender, box.protocol)
        and holds(box.source, numbers[0])
        and holds(box.destination, numbers[1])
        and holds(box.port, numbers[2])
    )


def answered(subject: Subject, box: Box, numbers: Numbers) -> dict[str, Any]:
    """What a probe is answered that is a packet of a box."""
    site = subject.side.site
    machine = site.machine(box.node)
    interface = {Sender.NODE: "", Sender.POD: machine.pod_interface}.get(box.sender, machine.uplink)
    start = Start(box.node, box.protocol, interface)
    packet = first_packet(Family.IPV4, start, *numbers)
    return answer(site, packet, box.node, local=start.local, now_ns=subject.side.now_ns).to_json()


def _told(subject: Subject, box: Box, numbers: Numbers) -> object:
    """An answer without the rule that decided, and without what is merely assumed."""
    told = answered(subject, box, numbers)
    told["outcomes"] = sorted(told["outcomes"], key=str)
    return {name: value for name, value in told.items() if name not in ("by", "masqueradeBy", "assumed")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if nothing was found, 1 if something was."""
    given = options("diff", "Random clusters and changes: do boxes hold exactly what differs?").parse_args(arguments)
    tally = Tally()
    return Rounds.of(given).search(lambda seed: fuzz(seed, tally), tally)
