"""Makes the traffic of a draft: a source for each address that a Service can be dialled by, at a rate to be filled in."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from kpsim.addresses import Family, parse_ip, parse_network
from kpsim.cluster import ClusterState
from kpsim.drafting.balancers import host_names
from kpsim.drafting.outside import CLIENTS, Outside
from kpsim.drafting.part import TODO, Ledger, Part
from kpsim.drafting.podspecs import PodSpec
from kpsim.objects import CLUSTER_IP_NONE, LABEL_SERVICE_PROXY_NAME, Service, ServicePortSpec

_PER_SECOND, _IN_ALL = 10, 200  #: connections a second: of a source, and of all sources


class Way(NamedTuple):
    """A way to dial a Service port."""

    service: Service
    port: ServicePortSpec
    via: str
    family: str  #: empty: the Service has one family

    @property
    def inside(self) -> bool:
        return self.via == "clusterIP"


def ways_to(service: Service) -> Iterator[Way]:
    """Yield every way that kube-proxy makes rules for. Headless Services and ExternalNames have none (O-1.1, O-4.2).

    A Service with several load balancers is left out there: which of them a client dials is not modelled.
    """
    if service.type == "ExternalName" or service.cluster_ip in ("", CLUSTER_IP_NONE):
        return
    if LABEL_SERVICE_PROXY_NAME in service.metadata.labels:
        return
    families = service.ip_families if len(service.ip_families) > 1 else ("",)
    for port in service.ports:
        for family in families:
            yield Way(service, port, "clusterIP", family)
            if service.type == "NodePort" and port.node_port:
                yield Way(service, port, "nodePort", family)
            if _has(service.external_ips, family):
                yield Way(service, port, "externalIP", family)
            addresses = [] if service.has_several_load_balancers else [each.ip for each in service.ingress if each.ip]
            if service.type == "LoadBalancer" and (_has(addresses, family) or _named_only(service, port, family)):
                yield Way(service, port, "loadBalancer", family)


def _named_only(service: Service, port: ServicePortSpec, family: str) -> bool:
    """Return whether the load balancer has a host name and no address: it dials node ports, of the Service's first family."""
    of_first = not family or family == service.ip_families[0]
    return bool(port.node_port and of_first and host_names(service)) and not any(each.ip for each in service.ingress)


def _has(addresses: Sequence[str], family: str) -> bool:
    """Return whether one of the addresses is of the family, or any is if it does not matter."""
    if not family:
        return bool(addresses)
    return any((found := parse_ip(ip)) is not None and found[0].label == family for ip in addresses)


def traffic_parts(
    ways: Sequence[Way], clients: str, filled: Collection[str], state: ClusterState, ledger: Ledger
) -> list[Part]:
    """Return the sources. ``clients`` is the workload that dials from inside, ``filled`` are the Services with endpoints."""
    rate = _PER_SECOND if len(ways) * _PER_SECOND <= _IN_ALL else max(round(_IN_ALL / len(ways), 3), 0.01)
    taken: set[str] = set()
    outside = Outside(state)
    made = []
    for way in ways:
        service = way.service
        key = f"{service.metadata.namespace}/{service.metadata.name}"
        part = Part({"name": _name(way, taken)})
        if key not in filled:
            part.head = f"{key} has no endpoint: its clients are refused"
        part.put("from", "pods" if way.inside else "outside")
        if way.inside:
            part.put("workload", clients)
        part.put("service", key)
        if len(service.ports) > 1:
            part.put("port", way.port.name or way.port.port)
        part.put("via", way.via)
        if way.family:
            part.put("ipFamily", way.family)
        part.put(
            "perSecond", rate, beside=f"{TODO}: {'datagrams' if way.port.protocol == 'UDP' else 'connections'} a second"
        )
        if not way.inside:
            part.put("clients", CLIENTS)
            _put_network(part, way, outside, ledger)
        made.append(part)
    if made:
        ledger.guess(f"{rate:g} connections a second for each of {len(made):,} traffic sources")
    return made


_UNFIT = re.compile(r"[^a-z0-9]+")
_SHORT = {"clusterIP": "", "nodePort": "-node-port", "externalIP": "-external-ip", "loadBalancer": "-lb"}


def _name(way: Way, taken: set[str]) -> str:
    metadata, port = way.service.metadata, way.port
    ports = f"-{port.name or port.port}" if len(way.service.ports) > 1 else ""
    base = f"{metadata.namespace}-{metadata.name}{ports}{_SHORT[way.via]}{'-v6' if way.family == 'IPv6' else ''}"
    base = name = _UNFIT.sub("-", base.lower()).strip("-")
    number = 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    taken.add(name)
    return name


def _put_network(part: Part, way: Way, outside: Outside, ledger: Ledger) -> None:
    """Give clients addresses that loadBalancerSourceRanges lets in, and that nobody in the cluster has."""
    family = Family.from_label(way.family or (way.service.ip_families[0] if way.service.ip_families else "IPv4"))
    ranges = [n for n in map(parse_network, map(str.strip, way.service.load_balancer_source_ranges)) if n is not None]
    own = [network for network in ranges if network.family is family] if way.via == "loadBalancer" else []
    name = f"{way.service.metadata.namespace}/{way.service.metadata.name}"
    if not own or any(network.is_zero for network in own):
        if family not in outside.usual_families and (free := outside.network(family)) is not None:
            part.put(
                "clientNetwork", str(free), beside="the cluster has addresses among those that clients usually have"
            )
    elif (free := next(filter(None, map(outside.within, own)), None)) is not None:
        part.put("clientNetwork", str(free), beside="within loadBalancerSourceRanges")
        ledger.guess("clients have addresses within loadBalancerSourceRanges", name)
    else:
        part.above["clients"] = "their addresses are not within loadBalancerSourceRanges, so they are dropped"
        words = (
            "clients of load balancers are outside loadBalancerSourceRanges, which have no free network of 32 addresses"
        )
        ledger.guess(words, name)


def clients_part(state: ClusterState, name: str) -> Part:
    """Return the workload of clients in the cluster: a pod on each node that takes new pods."""
    every = [node.metadata.name for node in state.nodes]
    fit = [node.metadata.name for node in state.nodes if PodSpec().may_run_on(node)] or every
    part = Part({"name": name})
    part.head = f"{TODO}: who dials cluster IPs is not known from a dump; this is a client on each node without taints"
    part.put("labels", Part({"kpsim.dev/role": name}, flow=True))
    part.put("replicas", len(fit))
    if fit != every:
        part.put("placement", Part({"nodes": fit}, flow=True))
    return part
