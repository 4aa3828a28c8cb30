"""Names in place of addresses: Services with their ports, pods and nodes, and the ways in which a Service is dialled.

Counterpart: what a person looks up with ``kubectl get services,pods,nodes -o wide`` before asking where a packet goes.
DNS gives a client the cluster IP; an external IP, a load balancer's address and a node port it has from elsewhere (O-2).
"""

import enum
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import Any, NamedTuple

from kpsim.addresses import Family, format_ip, join_host_port, parse_ip, split_host_port
from kpsim.cluster import ClusterState
from kpsim.errors import InputError
from kpsim.inputs import Json
from kpsim.objects import Pod, Service, ServicePortSpec
from kpsim.packet import Packet
from kpsim.tracing.directory import Address
from kpsim.tracing.probes import make_packet
from kpsim.tracing.site import Sender, Site

_SERVICE = re.compile(
    r"(?:service/|(?!(?:node|pod)/))(?P<namespace>[a-z0-9.-]+)/(?P<name>[a-z0-9.-]+)(?::(?P<port>[a-z0-9-]+))?"
)
_MACHINE = re.compile(r"(?P<who>pod/[a-z0-9.-]+/[a-z0-9.-]+|node/[a-z0-9.-]+)(?::(?P<port>[0-9]+))?")
_OUTSIDE = (Sender.EXTERNAL, Sender.PEER)
_NEAR = 5  #: names that an error offers


class Via(enum.StrEnum):
    """The kinds of addresses at which a Service is dialled, in the order in which clients outside prefer them."""

    LOAD_BALANCER = "loadBalancer"
    EXTERNAL_IP = "externalIP"
    NODE_PORT = "nodePort"
    CLUSTER_IP = "clusterIP"

    @property
    def words(self) -> str:
        return {"loadBalancer": "load balancer", "externalIP": "external IP", "nodePort": "node port", "clusterIP": "cluster IP"}[self]  # fmt: skip

    @classmethod
    def _missing_(cls, value: object) -> "Via | None":
        return cls.LOAD_BALANCER if value == "lb" else None


class Client(NamedTuple):
    """Who sends. ``node`` is empty if it may be any; ``addresses`` are those of a pod, none: one is chosen."""

    sender: Sender
    node: str = ""
    addresses: tuple[Address, ...] = ()

    @property
    def outside(self) -> bool:
        """Whether its packets come to a node from another machine."""
        return self.sender in _OUTSIDE

    def address(self, family: Family) -> str:
        """The address of a pod in this family, as text. InputError if it has none."""
        for of, value in self.addresses:
            if of is family:
                return format_ip(of, value)
        raise InputError(f"the pod has no {family.label} address")


class Way(NamedTuple):
    """One way to a Service: what is dialled, by whom, and the node that meets the packet first."""

    service: str  #: ``namespace/name:port``
    via: Via
    packet: Packet
    node: str
    sender: Sender

    @property
    def dialled(self) -> str:
        return join_host_port(self.packet.destination, self.packet.dport)

    def to_json(self) -> dict[str, Any]:
        return {
            "service": self.service, "via": str(self.via), "address": self.packet.destination,
            "port": self.packet.dport, "protocol": self.packet.protocol.upper(), "node": self.node, "from": str(self.sender),
        }  # fmt: skip


class _Dial(NamedTuple):
    """An address and port to dial. ``nodes``: where its packets may come in from outside; ``source`` 0: the client's."""

    address: Address
    port: int
    nodes: tuple[str, ...]
    source: int = 0


def names_service(text: str) -> bool:
    """Whether the text has the form ``namespace/name`` or ``namespace/name:port``, perhaps behind ``service/``."""
    return _SERVICE.fullmatch(text) is not None


def names_machine(text: str) -> bool:
    """Whether the text has the form ``pod/namespace/name`` or ``node/name``, perhaps with a port's number."""
    return _MACHINE.fullmatch(text) is not None


class Names:
    """Finds what the names of a cluster mean. ``site`` has its machines."""

    def __init__(self, state: ClusterState, site: Site) -> None:
        self._state = state
        self._site = site

    # --- clients --------------------------------------------------------------------------------------------------

    def client(self, text: str) -> Client:
        """The client ``pod/NAMESPACE/NAME``, ``node/NAME``, or of a kind: pod, node, external, peer.

        InputError, with similar names, if there is none.
        """
        kind, slash, name = text.partition("/")
        if not slash:
            try:
                return Client(Sender(text))
            except ValueError:
                raise InputError(
                    f"from {text!r} is none of {', '.join(Sender)}, pod/NAMESPACE/NAME, node/NAME"
                ) from None
        if kind == "node":
            self._site.check_node(name)
            return Client(Sender.NODE, name)
        if kind != "pod":
            raise InputError(f"from {text!r}: only pod/NAMESPACE/NAME and node/NAME name a client")
        return self._pod(name)

    def placed(self, text: str, node: str) -> Client:
        """The client of this name, on ``node`` unless that is empty. InputError also if it is on another."""
        client = self.client(text)
        if node and client.node not in ("", node):
            raise InputError(f"{text} is on {client.node}, not on {node}")
        return client._replace(node=client.node or node)

    def end(self, text: str, families: Sequence[Family]) -> str:
        """``IP:PORT`` of ``pod/NAMESPACE/NAME:PORT`` or ``node/NAME:PORT``, of the first of these families that it has."""
        found = _MACHINE.fullmatch(text)
        assert found is not None
        client = self.client(found["who"])
        addresses = client.addresses or tuple(self._addresses(client.node))
        for family in families:
            for of, value in addresses:
                if of is family:
                    shown = format_ip(of, value)
                    return join_host_port(shown, int(found["port"])) if found["port"] else shown
        raise InputError(f"{found['who']} has no address of {' or '.join(family.label for family in families)}")

    def probe(self, record: Json, families: Sequence[Family] = tuple(Family)) -> Json:
        """A probe's fields with addresses for the names in ``from``, ``src`` and ``dst``.

        A Service is dialled as ``via`` says. ``node`` may be left out if the client or the Service leaves one only, and
        so may ``from``, ``dport`` and ``protocol`` beside a Service. InputError for a name that the cluster does not have.
        """
        texts = {name: record.get(name) for name in ("from", "node", "dst", "via")}
        if not all(text is None or isinstance(text, str) for text in texts.values()):
            return record  # whoever reads the fields says so
        sender, node, dst, via = (texts[name] or "" for name in texts)
        service = names_service(dst)
        if not service and not names_machine(dst) and "/" not in sender:
            return record
        client = self.placed(sender, node) if sender or not service else self.usual_client(dst)._replace(node=node)
        found = {name: value for name, value in record.items() if name != "via"} | {"from": str(client.sender)}
        if service:
            return found | self._dialled(dst, client, via, families)
        if names_machine(dst):
            to = self.end(dst, families)
            found["dst"], found["dport"] = (to, record.get("dport")) if parse_ip(to) else split_host_port(to)
        dialled = parse_ip(found["dst"])
        if client.addresses and dialled is not None:
            found["src"] = client.address(dialled[0])
        return found | ({"node": client.node} if client.node else {})

    def _dialled(self, service: str, client: Client, via: str, families: Sequence[Family]) -> dict[str, Any]:
        """The fields of a probe that dials a Service, by its first address of a kind."""
        if said := self.answered_by_dns(service):
            raise InputError(said)
        if via and via != "lb" and via not in list(Via):
            raise InputError(f"via {via!r} is none of {', '.join(Via)}")
        ways = self.ways(service, client, via, families)
        nodes = {way.node for way in ways}
        if not ways:
            raise InputError(f"no packet to {service} comes to a node: its load balancer has none in rotation")
        if len(nodes) > 1:
            raise InputError(f"node is missing: packets to {service} may meet {', '.join(sorted(nodes))}")
        packet, found = ways[0].packet, ways[0].to_json()
        dial = {"dst": found["address"], "dport": found["port"], "protocol": found["protocol"], "node": found["node"]}
        return dial | ({"src": packet.source} if packet.saddr else {})

    def _pod(self, name: str) -> Client:
        pod = self._pods.get(name)
        if pod is None:
            return self._endpoint(name)
        if not pod.node_name:
            raise InputError(f"pod {name} runs on no node yet")
        if pod.host_network:
            return Client(Sender.NODE, pod.node_name)
        addresses = tuple(address for text in pod.ips if (address := parse_ip(text)) is not None)
        if not addresses:
            raise InputError(f"pod {name} has no address")
        return Client(Sender.POD, pod.node_name, addresses)

    def _endpoint(self, name: str) -> Client:
        """A pod that only slices name, by their targetRef."""
        owned = {
            address: owner
            for address, owner in self._site.directory.pods.items()
            if owner.name == f"pod {name}" and owner.node
        }
        if not owned:
            known = {
                owner.name.removeprefix("pod ")
                for owner in self._site.directory.pods.values()
                if owner.name.startswith("pod ")
            }
            raise InputError(
                f"no pod {name!r}{_near(name, known | set(self._pods))}; from {Sender.POD} is any pod of a node"
            )
        return Client(Sender.POD, next(iter(owned.values())).node, tuple(owned))

    @cached_property
    def _pods(self) -> dict[str, Pod]:
        return {f"{pod.metadata.namespace}/{pod.metadata.name}": pod for pod in self._state.pods}

    # --- Services -------------------------------------------------------------------------------------------------

    @cached_property
    def _services(self) -> dict[str, Service]:
        return {f"{each.metadata.namespace}/{each.metadata.name}": each for each in self._state.services}

    def port(self, text: str) -> tuple[Service, ServicePortSpec | None]:
        """The Service ``namespace/name``, and the port of ``namespace/name:port``; None: no port is named.

        InputError, with similar names, if there is none.
        """
        name, service, wanted = self._service(text)
        return service, _port(name, service, wanted) if wanted else None

    def answered_by_dns(self, text: str) -> str:
        """What DNS says in place of kube-proxy, for a Service without a virtual address; empty: it has one.

        InputError if there is no such Service.
        """
        name, service, _ = self._service(text)
        if service.type == "ExternalName":
            target = service.json.get("spec", {}).get("externalName", "")
            return f"{name} is an ExternalName Service: DNS answers {target or 'with no name'}, and kube-proxy programs nothing for it"
        if service.cluster_ip == "None":
            return f"{name} is headless: DNS answers the addresses of its endpoints, and kube-proxy programs nothing for it"
        return ""

    def usual_client(self, text: str) -> Client:
        """The client that a Service is most likely meant for: outside, if it is reached from there, else a pod."""
        _, service, _ = self._service(text)
        outside = service.ingress or service.external_ips or any(port.node_port for port in service.ports)
        return Client(Sender.EXTERNAL if outside else Sender.POD)

    def ways(self, text: str, client: Client, via: str = "", families: Sequence[Family] = tuple(Family)) -> list[Way]:
        """Every way of a client to the Service port ``namespace/name:port``, in the order of kinds, addresses and nodes.

        ``via`` is a kind or ``all``; empty: the kind that such a client uses. The port is a name or number; it may be left
        out if there is only one. InputError if the Service is not there or has no address of this kind.
        """
        name, service, wanted = self._service(text)
        port = _port(name, service, wanted)
        dials = {
            via: [each for each in self._dials(via, service, port, client) if each.address[0] in families]
            for via in Via
        }
        has = [via for via in Via if dials[via]]
        if not has:
            raise InputError(f"{name} has no address" + (f" of {families[0].label}" if len(families) == 1 else ""))
        chosen = _chosen(via, client, has)
        if chosen[0] not in has:
            raise InputError(f"{name} has no {chosen[0].words}; it has {', '.join(has)}")
        full = f"{name}:{port.name or port.port}"
        return [
            Way(full, kind, packet, node, client.sender)
            for kind in chosen
            for dial in dials[kind]
            for packet, node in self._sent(dial, kind, port, client)
        ]

    def _service(self, text: str) -> tuple[str, Service, str]:
        found = _SERVICE.fullmatch(text)
        if found is None:
            raise InputError(f"{text!r} names no Service: NAMESPACE/NAME or NAMESPACE/NAME:PORT does")
        name = f"{found['namespace']}/{found['name']}"
        if name not in self._services:
            raise InputError(f"no Service {name!r}{_near(name, self._services)}")
        return name, self._services[name], found["port"] or ""

    def _dials(self, via: Via, service: Service, port: ServicePortSpec, client: Client) -> Iterator[_Dial]:
        nodes = self._site.node_names
        match via:
            case Via.CLUSTER_IP:
                for address in dict.fromkeys(_parsed((service.cluster_ip, *service.cluster_ips))):
                    yield _Dial(address, port.port, nodes)
            case Via.EXTERNAL_IP:
                for address in _parsed(service.external_ips):
                    yield _Dial(address, port.port, nodes)
            case Via.LOAD_BALANCER:
                for ingress in service.ingress:
                    for address in _parsed([ingress.ip]):
                        yield from self._balanced(address, ingress.ip_mode == "Proxy", service, port, client)
                if client.outside and _is_named_only(
                    service
                ):  # it dials node ports, with its client's address or its own
                    for address in list(_parsed(service.cluster_ips or (service.cluster_ip,)))[:1]:
                        yield from self._balanced((address[0], 0), True, service, port, client)
            case Via.NODE_PORT:
                yield from self._node_ports(service, port)

    def _node_ports(self, service: Service, port: ServicePortSpec) -> Iterator[_Dial]:
        """Each node's first address of a family. A Service has node ports in the families of its cluster IPs (O-4.3)."""
        of_service = {family for family, _ in _parsed((service.cluster_ip, *service.cluster_ips))}
        for node in self._site.node_names if port.node_port else ():
            own = dict(reversed(list(self._addresses(node))))  # of several the first
            for family in sorted(of_service.intersection(own)):
                yield _Dial((family, own[family]), port.node_port, (node,))

    def _balanced(
        self, address: Address, proxied: bool, service: Service, port: ServicePortSpec, client: Client
    ) -> Iterator[_Dial]:
        """A load balancer's address. One with ipMode Proxy dials node ports itself, for what comes from outside."""
        picked = tuple(self._site.ends.in_rotation(service, address[0]))
        if not (proxied and client.outside):
            yield _Dial(address, port.port, picked)
            return
        for node in picked:
            own = next((value for family, value in self._addresses(node) if family is address[0]), None)
            if own is not None and port.node_port:
                yield _Dial((address[0], own), port.node_port, (node,), address[1])

    def not_in_rotation(self, text: str, families: Sequence[Family] = tuple(Family)) -> list[str]:
        """The nodes that a Service's load balancer does not send to: its check fails there, or a label excludes them."""
        _, service, _ = self._service(text)
        ips = _parsed(service.cluster_ips or (service.cluster_ip,))
        used = {
            node for family, _ in ips if family in families for node in self._site.ends.in_rotation(service, family)
        }
        return [node for node in self._site.node_names if node not in used]

    def _addresses(self, node: str) -> Iterator[Address]:
        found = self._state.node(node)
        return _parsed(found.ips if found is not None else ())

    def _sent(self, dial: _Dial, via: Via, port: ServicePortSpec, client: Client) -> Iterator[tuple[Packet, str]]:
        """The first packets of the client to this address, each with the node that meets it first."""
        family = dial.address[0]
        source = next((value for of, value in client.addresses if of is family), 0) or dial.source
        if client.addresses and not source:
            return
        if client.outside and via is Via.NODE_PORT:
            nodes: Iterable[str] = [node for node in dial.nodes if client.node in ("", node)]
        elif client.node:
            nodes = (client.node,)
        elif client.outside or via is Via.NODE_PORT:
            nodes = dial.nodes  # a client on some node dials its own node's port
        else:
            nodes = self._site.node_names
        for node in nodes:
            packet = make_packet(port.protocol, format_ip(*dial.address), dial.port)
            packet.saddr, packet.sourced = source, bool(source)
            yield packet, node


def _is_named_only(service: Service) -> bool:
    """Whether its load balancer has a host name and no address."""
    return bool(service.ingress) and service.type == "LoadBalancer" and not any(each.ip for each in service.ingress)


def _chosen(via: str, client: Client, has: Sequence[Via]) -> Sequence[Via]:
    """The kinds that are asked for. DNS gives a client in the cluster the cluster IP; one outside dials the first kind that the Service has."""
    if via:
        return has if via == "all" else (Via(via),)
    if not client.outside and Via.CLUSTER_IP in has:
        return (Via.CLUSTER_IP,)
    return (has[0],)


def _port(name: str, service: Service, wanted: str) -> ServicePortSpec:
    known = [port.name or str(port.port) for port in service.ports]
    if not known:
        raise InputError(f"{name} has no port")
    each_named = " or ".join(f"{name}:{each}" for each in known)
    if not wanted and len(known) > 1:
        raise InputError(f"{name} has several ports: say {each_named}")
    if not wanted:
        return service.ports[0]
    found = [port for port in service.ports if wanted in (port.name, str(port.port))]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"{name} has no port {wanted!r}{_near(wanted, known)}")
    raise InputError(f"{name} has port {wanted} with several protocols: say {each_named}")


def _near(name: str, known: Iterable[str]) -> str:
    """Names like this one, for an error: those that differ in letters, those of other namespaces, those of its namespace, or any."""
    ordered = sorted(known)
    space, _, own = name.rpartition("/")
    found = (
        get_close_matches(name, ordered, n=3)
        or [each for each in ordered if own and each.rpartition("/")[2] == own]
        or [each for each in ordered if space and each.startswith(f"{space}/")]
        or ordered
    )
    if not found:
        return "; there is none"
    more = f" and {len(found) - _NEAR:,} more" if len(found) > _NEAR else ""
    return f"; there is {', '.join(found[:_NEAR])}{more}"


def _parsed(texts: Iterable[str]) -> Iterator[Address]:
    return (address for address in map(parse_ip, texts) if address is not None)
