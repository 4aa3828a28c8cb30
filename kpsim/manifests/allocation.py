"""Families, cluster IPs and node ports that the API server gives to Services (O-3.3 to O-3.7).

Counterpart: pkg/registry/core/service. The server starts its search at a random number. Here the start is drawn from
the Service's name, so an allocation is the same in every run and does not change when other Services come and go,
unless two claim one number. Disputes are returned as complaints with the names of both Services.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from kpsim import rng
from kpsim.addresses import Family, Network, format_ip, parse_ip, parse_network
from kpsim.inputs import Json
from kpsim.manifests.places import Path
from kpsim.manifests.validation import Complaint, cluster_ip_path, is_stored
from kpsim.valueclass import dataclass

#: the ranges assumed if no ServiceCIDR exists: kubeadm's default, and a ULA range of the same kind
DEFAULT_RANGES = {Family.IPV4: "10.96.0.0/12", Family.IPV6: "fd00:10:96::/112"}
#: prefix length of the range assumed around cluster IPs that lie outside the default one
_RANGE_AROUND = {Family.IPV4: 16, Family.IPV6: 112}

NODE_PORTS = range(30000, 32768)


def parse_port_range(text: str) -> range:
    """Read ``30000-32767`` or ``30000+2767`` as the API server's --service-node-port-range. ValueError if it is neither."""
    for sign in "-+":
        first, found, second = text.partition(sign)
        if found and first.strip().isdecimal() and second.strip().isdecimal():
            low, high = int(first), int(second) + (int(first) if sign == "+" else 0)
            if 1 <= low <= high <= 65535:
                return range(low, high + 1)
    raise ValueError(f"expected ports such as {NODE_PORTS[0]}-{NODE_PORTS[-1]}, got {text!r}")


def name_of(obj: Json) -> str:
    metadata = obj["metadata"]
    return f"{metadata.get('namespace') or 'default'}/{metadata['name']}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A number or address that a Service holds, and the field that says so."""

    owner: str
    path: Path


@dataclass(frozen=True, slots=True)
class ServiceRanges:
    """The ranges of cluster IPs, for each family in the cluster's order. ``given``: objects state them."""

    networks: Mapping[Family, tuple[Network, ...]]
    given: bool

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(self.networks)

    def covers(self, family: Family, address: int) -> bool:
        return any(address in network for network in self.networks.get(family, ()))


def service_ranges(services: Sequence[Json], nodes: Sequence[Json], service_cidrs: Sequence[Json]) -> ServiceRanges:
    """Return the ranges of ServiceCIDR objects (``kubernetes`` first).

    Without such objects they are the defaults for the families that Services and Nodes show.
    """
    networks: dict[Family, tuple[Network, ...]] = {}
    for obj in sorted(
        service_cidrs, key=lambda obj: (obj["metadata"]["name"] != "kubernetes", obj["metadata"]["name"])
    ):
        for text in obj["spec"]["cidrs"]:
            network = parse_network(text)
            if network is not None:
                networks[network.family] = (*networks.get(network.family, ()), network)
    if networks:
        return ServiceRanges(networks, given=True)
    addresses = [parsed for service in services for parsed in map(parse_ip, _given_ips(service)) if parsed is not None]
    return ServiceRanges(
        {family: (_assumed_range(family, addresses),) for family in _families_shown(services, nodes)}, given=False
    )


def _given_ips(service: Json) -> list[str]:
    spec = service.get("spec") or {}
    return [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP") or "None"] if ip != "None"]


def _assumed_range(family: Family, addresses: Iterable[tuple[Family, int]]) -> Network:
    default = parse_network(DEFAULT_RANGES[family])
    assert default is not None
    given = sorted(value for kind, value in addresses if kind is family)
    if not given or any(value in default for value in given):
        return default
    around = parse_network(f"{format_ip(family, given[0])}/{_RANGE_AROUND[family]}")
    assert around is not None
    return around


def _families_shown(services: Sequence[Json], nodes: Sequence[Json]) -> list[Family]:
    """Return the cluster's families, the primary one first.

    They come from cluster IPs and ipFamilies, then from pod CIDRs. If there are none of these, it is IPv4.
    """
    first: list[Family] = []
    shown: set[Family] = set()
    for service in services:
        parsed = [found[0] for found in map(parse_ip, _given_ips(service)) if found is not None]
        spec = service.get("spec") or {}
        labels = [Family.from_label(label) for label in spec.get("ipFamilies") or []]
        if spec.get("selector") or parsed:  # a headless Service without selector has both families in any cluster
            shown.update(parsed, labels)
            first += (parsed or labels)[:1]
    for node in nodes:
        cidrs = [found.family for found in map(parse_network, (node.get("spec") or {}).get("podCIDRs") or []) if found]
        shown.update(cidrs)
        if not first:
            first += cidrs[:1]
    primary = Family.IPV6 if first and Family.IPV4 not in first else Family.IPV4
    return [primary, *(family for family in Family if family in shown and family is not primary)]


# ------------------------------------------------------------------------------------------------------------- families


def assign_families(service: Json, ranges: ServiceRanges, *, update: bool = False) -> tuple[Json, list[Complaint]]:
    """Return the Service with ``ipFamilies`` and ``ipFamilyPolicy`` (O-3.3, steps 1 to 5), and complaints."""
    spec = service["spec"]
    if spec["type"] == "ExternalName":
        return service, []
    headless = spec.get("clusterIP") == "None"
    open_headless = headless and not spec.get("selector")
    ips = _given_ips(service)
    policy = spec.get("ipFamilyPolicy") or ("RequireDualStack" if open_headless else "SingleStack")
    families = [Family.from_label(label) for label in spec.get("ipFamilies") or []]
    for parsed in map(parse_ip, ips):
        if parsed is not None and parsed[0] not in families:
            families.append(parsed[0])
    if (
        families and is_stored(service) and not update
    ):  # they were decided when the Service was written, perhaps in a cluster of other families
        wanted = families
    else:
        complaints = list(_family_complaints(policy, families, ips, ranges, open_headless))
        if complaints:
            return service, complaints
        wanted = families or [ranges.families[0]]
        if policy != "SingleStack" and len(wanted) == 1 and (open_headless or len(ranges.families) == 2):
            wanted = [*wanted, Family.IPV6 if wanted[0] is Family.IPV4 else Family.IPV4]
    labels = [family.label for family in wanted]
    if not labels or (labels == spec.get("ipFamilies") and policy == spec.get("ipFamilyPolicy")):
        return service, []
    return {**service, "spec": {**spec, "ipFamilies": labels, "ipFamilyPolicy": policy}}, []


def _family_complaints(
    policy: str, families: list[Family], ips: list[str], ranges: ServiceRanges, open_headless: bool
) -> Iterator[Complaint]:
    if policy == "SingleStack" and (len(ips) > 1 or len(families) > 1):
        yield ("spec", "ipFamilyPolicy"), "two families need PreferDualStack or RequireDualStack (SingleStack if unset)"
    if open_headless:
        return
    missing = [family.label for family in families if family not in ranges.families]
    available = " and ".join(family.label for family in ranges.families)
    if missing:
        yield ("spec", "ipFamilies"), f"the cluster has no {' and '.join(missing)} service range, only {available}"
    elif policy == "RequireDualStack" and len(ranges.families) < 2:
        yield ("spec", "ipFamilyPolicy"), f"RequireDualStack in a cluster with {available} service ranges only"


# --------------------------------------------------------------------------------------------------------- the allocator


def _scan(first: int, count: int, taken: Mapping[Any, Claim], key: Any, *draw: str | int) -> int | None:
    """Return the first free of ``count`` numbers from ``first``.

    The search begins at a drawn number, goes up and wraps.
    """
    if count <= 0:
        return None
    start = rng.below(count, 0, *draw)
    for step in range(min(count, len(taken) + 1)):  # one of these is free, because only len(taken) are taken
        number = first + (start + step) % count
        if key(number) not in taken:
            return number
    return None


@dataclass(slots=True)
class Allocator:
    """The cluster IPs and node ports of one cluster and their holders. Make explicit claims first, then allocate."""

    ranges: ServiceRanges
    #: the API server's --service-node-port-range; None: it is not known, and the default serves for allocation
    port_range: range | None = None
    outside: list[str] = field(default_factory=list)  #: Services with ports that the range does not allow, in words
    addresses: dict[tuple[Family, int], Claim] = field(default_factory=dict)
    node_ports: dict[int, Claim] = field(default_factory=dict)

    @property
    def ports(self) -> range:
        """The numbers that node ports are allocated from."""
        return NODE_PORTS if self.port_range is None else self.port_range

    # explicit values

    def claim(self, service: Json) -> list[Complaint]:
        """Reserve what the Service states. Complaints name the holder of a taken value, and values out of range."""
        return [*self._claim_addresses(service), *self._claim_ports(service)]

    def _claim_addresses(self, service: Json) -> Iterator[Complaint]:
        owner = name_of(service)
        ips = _given_ips(service)
        for index, text in enumerate(ips):
            parsed = parse_ip(text)
            path: Path = ("spec", *cluster_ip_path(ips, index))
            if parsed is None:
                continue
            holder = self.addresses.setdefault(parsed, Claim(owner, path))
            if holder.owner != owner:
                yield path, f"the cluster IP {text} belongs to Service {holder.owner}"
            elif self.ranges.given and not is_stored(service):
                yield from self._range_complaint(path, text, *parsed)

    def _range_complaint(self, path: Path, text: str, family: Family, address: int) -> Iterator[Complaint]:
        networks = self.ranges.networks.get(family, ())
        if not self.ranges.covers(family, address):
            known = ", ".join(map(str, networks)) or f"none of {family.label}"
            yield path, f"the cluster IP {text} lies in no ServiceCIDR ({known})"
        for network in networks:
            last = network.last
            if address == network.base or (family is Family.IPV4 and address == last):
                yield path, f"{text} is the network or broadcast address of {network}"

    def _claim_ports(self, service: Json) -> Iterator[Complaint]:
        owner, spec = name_of(service), service.get("spec") or {}
        claims: list[tuple[Path, int]] = [
            (("spec", "ports", index, "nodePort"), port.get("nodePort") or 0)
            for index, port in enumerate(spec.get("ports") or [])
        ]
        claims.append((("spec", "healthCheckNodePort"), spec.get("healthCheckNodePort") or 0))
        for path, number in claims:
            if not number:
                continue
            holder = self.node_ports.setdefault(number, Claim(owner, path))
            # one Service may use a number for several protocols, but not for its health check too (O-3.5)
            if holder.owner != owner or (holder.path != path and "healthCheckNodePort" in (path[-1], holder.path[-1])):
                yield path, f"the node port {number} belongs to Service {holder.owner}, whatever the protocol"
            elif number in self.ports or (self.port_range is None and is_stored(service)):
                continue  # an API server that stored it had a range that allows it
            elif self.port_range is not None and not is_stored(service):
                yield path, f"expected a node port from {self.ports[0]} to {self.ports[-1]}, got {number}"
            else:
                self.outside.append(f"{owner} {number}")

    # allocation

    def allocate(self, service: Json, *, update: bool = False) -> "Allocated":
        """Give the Service all that it lacks. There are complaints if a range is used up."""
        made = Allocated(service)
        self._give_addresses(made)
        self._give_node_ports(made, update)
        self._give_health_port(made)
        return made

    def _give_addresses(self, made: "Allocated") -> None:
        spec, owner = made.service["spec"], name_of(made.service)
        families = [Family.from_label(label) for label in spec.get("ipFamilies") or []]
        if spec["type"] == "ExternalName" or spec.get("clusterIP") == "None":
            return
        ips = list(spec.get("clusterIPs") or [])
        for family in families[len(ips) :]:
            address = self._free_address(family, made.service["metadata"])
            if address is None:
                made.complaints.append((("spec", "clusterIPs"), f"no free {family.label} cluster IP is left"))
                return
            text = format_ip(family, address)
            self.addresses[family, address] = Claim(owner, ("spec", "clusterIPs", len(ips)))
            ips.append(text)
            made.address_notes.append(f"allocated cluster IP {text} to {owner}")
        if made.address_notes:
            made.service = {**made.service, "spec": {**spec, "clusterIP": ips[0], "clusterIPs": ips}}

    def _free_address(self, family: Family, metadata: Json) -> int | None:
        for network in self.ranges.networks.get(family, ()):
            size = 1 << (family.bits - network.prefix)
            usable = size - 1 - (family is Family.IPV4)
            band = 0 if size <= 16 else min(max(16, size // 16), 256)
            draw = ("clusterIP", str(network), metadata["namespace"], metadata["name"])
            for first, count in ((band, usable - band), (0, band)):
                found = _scan(network.base + 1 + first, count, self.addresses, lambda number: (family, number), *draw)
                if found is not None:
                    return found
        return None

    def _free_port(self, *draw: str | int) -> int | None:
        size = len(self.ports)
        band = 0 if size <= 16 else min(max(16, size // 32), 128)
        for first, count in ((band, size - band), (0, band)):
            found = _scan(self.ports[0] + first, count, self.node_ports, lambda number: number, *draw)
            if found is not None:
                return found
        return None

    def _give_node_ports(self, made: "Allocated", update: bool) -> None:
        service, spec, owner = made.service, made.service["spec"], name_of(made.service)
        ports = spec.get("ports") or []
        if not _wants_node_ports(service, update) or all(port.get("nodePort") for port in ports):
            return
        shared: dict[int, int] = {}
        if not update:  # on create, ports with one number (such as TCP and UDP) share one node port (O-3.6)
            for port in ports:
                if port.get("nodePort"):
                    shared.setdefault(port["port"], port["nodePort"])
        filled = []
        for index, port in enumerate(ports):
            number = port.get("nodePort") or shared.get(port["port"])
            if not number:
                metadata = service["metadata"]
                own = (port["protocol"],) if update else ()
                number = self._free_port("nodePort", metadata["namespace"], metadata["name"], port["port"], *own)
                if number is None:
                    made.complaints.append((("spec", "ports", index), "no free node port is left"))
                    return
                self.node_ports[number] = Claim(owner, ("spec", "ports", index, "nodePort"))
                made.port_notes.append(
                    f"allocated node port {number} to {owner} port {port.get('name') or port['port']}"
                )
                if not update:
                    shared[port["port"]] = number
            filled.append({**port, "nodePort": number})
        made.service = {**service, "spec": {**spec, "ports": filled}}

    def _give_health_port(self, made: "Allocated") -> None:
        spec, metadata = made.service["spec"], made.service["metadata"]
        local = spec["type"] == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"
        if not local or spec.get("healthCheckNodePort"):
            return
        number = self._free_port("healthCheckNodePort", metadata["namespace"], metadata["name"])
        if number is None:
            made.complaints.append((("spec", "healthCheckNodePort"), "no free node port is left"))
            return
        owner = name_of(made.service)
        self.node_ports[number] = Claim(owner, ("spec", "healthCheckNodePort"))
        made.port_notes.append(f"allocated health check node port {number} to {owner}")
        made.service = {**made.service, "spec": {**spec, "healthCheckNodePort": number}}


@dataclass(slots=True)
class Allocated:
    """A Service, and in words what it was given."""

    service: Json
    address_notes: list[str] = field(default_factory=list)
    port_notes: list[str] = field(default_factory=list)
    complaints: list[Complaint] = field(default_factory=list)


def _wants_node_ports(service: Json, update: bool) -> bool:
    spec = service["spec"]
    if spec["type"] == "NodePort":
        return True
    # a load balancer that an API server stored without node ports keeps having none
    return (
        spec["type"] == "LoadBalancer"
        and bool(spec.get("allocateLoadBalancerNodePorts", True))
        and (update or not is_stored(service))
    )
