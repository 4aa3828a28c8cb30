"""What the API server refuses although the shape is right (O-3.2): names, addresses, fields that exclude each other.

Counterpart: pkg/apis/core/validation and pkg/apis/discovery/validation. It sees one defaulted object at a time.
Disputes between two objects are found in allocation.py and admission.py.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

from kpsim.addresses import Family, parse_cidr, parse_ip
from kpsim.inputs import Json
from kpsim.manifests.places import Path
from kpsim.manifests.wording import hint, shown

#: path inside the object, and what was expected
Complaint = tuple[Path, str]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?", re.ASCII)

LABEL_WORDS = "lower-case letters, digits and '-', at most 63 characters"
SUBDOMAIN_WORDS = "lower-case letters, digits, '-' and '.', at most 253 characters"


def is_dns_label(text: str) -> bool:
    return _LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def is_stored(obj: Json) -> bool:
    """Return whether the object comes from an API server. It has then passed validation once, perhaps an older one."""
    metadata = obj.get("metadata")
    return isinstance(metadata, Mapping) and bool(metadata.get("uid") or metadata.get("resourceVersion"))


# ----------------------------------------------------------------------------------------------------------- addresses


def _written_plainly(text: str) -> bool:
    """Return whether an address has no leading zeros and is no IPv4 address in IPv6 form (StrictIPCIDRValidation)."""
    family = AF_INET6 if ":" in text else AF_INET
    try:
        packed = inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return family is AF_INET or not packed.startswith(b"\0" * 10 + b"\xff\xff")


def ip_complaint(text: str, *, stored: bool, family: Family | None = None) -> str | None:
    """Return what is wrong with an address, or None. Stored values may have leading zeros (O-3.2)."""
    parsed = parse_ip(text)
    if parsed is None:
        return f"expected an IP address, got {text!r}"
    if not stored and not _written_plainly(text):
        return f"expected an IP address without leading zeros and not IPv4 written as IPv6, got {text!r}"
    if family is not None and parsed[0] is not family:
        return f"expected an {family.label} address, got {text!r}"
    return None


def cidr_complaint(text: str, *, stored: bool) -> str | None:
    """Return what is wrong with a CIDR, or None."""
    if parse_cidr(text) is None:
        wanted = " (an address without prefix length is none)" if parse_ip(text) else ""
        return f"expected a CIDR such as 203.0.113.0/24, got {text!r}{wanted}"
    if not stored and not _written_plainly(text.partition("/")[0]):
        return f"expected a CIDR without leading zeros and not IPv4 written as IPv6, got {text!r}"
    return None


def special_address(text: str) -> str | None:
    """Return the special meaning of an address that may be no endpoint or external IP (O-3.2), or None."""
    parsed = parse_ip(text)
    if parsed is None:
        return None
    family, value = parsed
    if value == 0:
        return "the unspecified address"
    if family is Family.IPV4:
        if value >> 24 == 127:
            return "a loopback address"
        if value >> 16 == 0xA9FE:
            return "a link-local address"
        return "a link-local multicast address" if value >> 8 == 0xE00000 else None
    if value == 1:
        return "a loopback address"
    if value >> 118 == 0xFE80 >> 6:
        return "a link-local address"
    return "a link-local multicast address" if value >> 112 in (0xFF02, 0xFF12) else None


# ------------------------------------------------------------------------------------------------------------ metadata

NAMESPACED = frozenset(("Service", "EndpointSlice", "Endpoints", "Pod", "ConfigMap"))


def metadata_complaints(kind: str, obj: Json) -> Iterator[Complaint]:
    metadata = obj["metadata"]
    name, namespace = metadata.get("name") or "", metadata.get("namespace") or ""
    if not name:
        generated = " (generateName alone does not tell which object is meant)" if metadata.get("generateName") else ""
        yield ("metadata", "name"), f"is required{generated}"
    elif kind == "Service" and not is_dns_label(name):
        yield ("metadata", "name"), f"a Service's name is made of {LABEL_WORDS}; got {name!r}"
    elif not is_dns_subdomain(name):
        yield ("metadata", "name"), f"a name is made of {SUBDOMAIN_WORDS}; got {name!r}"
    if kind not in NAMESPACED and namespace:
        yield ("metadata", "namespace"), f"a {kind} belongs to no namespace"
    elif namespace and not is_dns_label(namespace):
        yield ("metadata", "namespace"), f"a namespace's name is made of {LABEL_WORDS}; got {namespace!r}"


# ------------------------------------------------------------------------------------------------------------- Service


def service_complaints(obj: Json) -> Iterator[Complaint]:
    """Yield what the API server refuses in a defaulted Service (O-3.2, O-3.3)."""
    spec, stored = obj["spec"], is_stored(obj)
    found = chain(
        _port_complaints(spec),
        _node_port_complaints(spec),
        _cluster_ip_complaints(spec, stored),
        _external_ip_complaints(spec, stored),
        _policy_complaints(spec),
        _load_balancer_complaints(spec, stored),
    )
    for path, message in found:
        yield ("spec", *path), message
    yield from _ingress_complaints(obj, stored)


def _is_headless(spec: Json) -> bool:
    return spec.get("clusterIP") == "None" or (spec.get("clusterIPs") or [""])[0] == "None"


def _port_complaints(spec: Json) -> Iterator[Complaint]:
    ports = spec.get("ports") or []
    if not ports and spec["type"] != "ExternalName" and not _is_headless(spec):
        yield ("ports",), "is required: only a headless or ExternalName Service may have no ports"
    names: dict[str, int] = {}
    numbers: dict[tuple[str, int], int] = {}
    for index, port in enumerate(ports):
        name = port.get("name") or ""
        if name and not is_dns_label(name):
            yield ("ports", index, "name"), f"a port's name is made of {LABEL_WORDS}; got {name!r}"
        if not name and len(ports) > 1:
            yield ("ports", index, "name"), "is required as soon as there are two ports"
        if name and names.setdefault(name, index) != index:
            yield ("ports", index, "name"), f"the name {name!r} is taken by ports[{names[name]}]"
        number = (port["protocol"], port["port"])
        if numbers.setdefault(number, index) != index:
            yield ("ports", index), f"{number[0]} port {number[1]} is taken by ports[{numbers[number]}]"
        yield from _target_port_complaints(port.get("targetPort"), index)


def _target_port_complaints(target: Any, index: int) -> Iterator[Complaint]:
    path: Path = ("ports", index, "targetPort")
    match target:
        case bool():
            yield path, f"expected a number or a port's name, got {shown(target)}{hint(target)}"
        case int() if not 1 <= target <= 65535:
            yield path, f"expected a number from 1 to 65535 or a port's name, got {shown(target)}"
        case int():
            pass
        case str() if not _PORT_NAME.fullmatch(target):
            digits = "; a number is written without quotes" if target.isdigit() else ""
            yield (
                path,
                f"a port's name has at most 15 lower-case letters, digits and '-', with a letter; got {target!r}{digits}",
            )
        case str():
            pass
        case _:
            yield path, f"expected a number or a port's name, got {shown(target)}{hint(target)}"


def _node_port_complaints(spec: Json) -> Iterator[Complaint]:
    taken: dict[tuple[str, int], int] = {}
    for index, port in enumerate(spec.get("ports") or []):
        node_port = port.get("nodePort") or 0
        if not node_port:
            continue
        if spec["type"] in ("ClusterIP", "ExternalName"):
            yield ("ports", index, "nodePort"), f"a Service of type {spec['type']} has no node ports"
        key = (port["protocol"], node_port)
        if taken.setdefault(key, index) != index:
            yield ("ports", index, "nodePort"), f"{key[0]} node port {node_port} is taken by ports[{taken[key]}]"


def _cluster_ip_complaints(spec: Json, stored: bool) -> Iterator[Complaint]:
    first, ips = spec.get("clusterIP") or "", spec.get("clusterIPs") or []
    families = spec.get("ipFamilies") or []
    if spec["type"] == "ExternalName":
        for name, value in (("clusterIP", first), ("clusterIPs", ips), ("ipFamilies", families)):
            if value:
                yield (name,), "a Service of type ExternalName has no cluster IP"
        if not spec.get("externalName"):
            yield ("externalName",), "is required for type ExternalName"
        return
    if ips and ips[0] != first:
        yield ("clusterIP",), f"must equal clusterIPs[0], {ips[0]!r}, got {first!r}"
        return
    if "None" in ips and len(ips) > 1:
        yield ("clusterIPs",), "None excludes other addresses"
        return
    if _is_headless(spec) and spec["type"] != "ClusterIP":
        yield ("clusterIP",), f"None is only for type ClusterIP, not {spec['type']}"
    if len(families) != len(set(families)):
        yield ("ipFamilies",), "each family may stand only once"
    if not _is_headless(spec):
        yield from _address_list_complaints(ips, families, stored)


def cluster_ip_path(ips: list[str], index: int) -> Path:
    """Return the field under ``spec`` where people write the address: ``clusterIP`` if there is only one."""
    return ("clusterIPs", index) if len(ips) > 1 else ("clusterIP",)


def _address_list_complaints(ips: list[str], families: list[str], stored: bool) -> Iterator[Complaint]:
    if len(ips) > 2:
        yield ("clusterIPs",), f"expected at most two addresses, one of each family, got {len(ips)}"
    valid: list[Family] = []
    for index, ip in enumerate(ips):
        complaint = ip_complaint(ip, stored=stored)
        if complaint is None and index < len(families):
            complaint = ip_complaint(ip, stored=stored, family=Family.from_label(families[index]))
            if complaint is not None:
                complaint += f", as ipFamilies[{index}] says"
        if complaint is not None:
            yield cluster_ip_path(ips, index), complaint
        elif (parsed := parse_ip(ip)) is not None:
            valid.append(parsed[0])
    if len(valid) != len(set(valid)):
        yield ("clusterIPs",), "two addresses must be of different families"


def _external_ip_complaints(spec: Json, stored: bool) -> Iterator[Complaint]:
    for index, ip in enumerate(spec.get("externalIPs") or []):
        complaint = ip_complaint(ip, stored=stored)
        special = special_address(ip)
        if complaint is not None:
            yield ("externalIPs", index), complaint
        elif special is not None:
            yield ("externalIPs", index), f"may not be {special}, got {ip!r}"


def externally_accessible(spec: Json) -> bool:
    """Return whether the Service is externally accessible, as the API defines it (O-3.1)."""
    kind = spec.get("type")
    return kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and bool(spec.get("externalIPs")))


def _policy_complaints(spec: Json) -> Iterator[Complaint]:
    policy = spec.get("externalTrafficPolicy")
    if policy and not externally_accessible(spec):
        yield (
            ("externalTrafficPolicy",),
            f"only for NodePort, LoadBalancer or externalIPs: this {spec['type']} Service is not reachable from outside",
        )
    health = spec.get("healthCheckNodePort")
    if health and not (spec["type"] == "LoadBalancer" and policy == "Local"):
        yield ("healthCheckNodePort",), "only for type LoadBalancer with externalTrafficPolicy Local"


def _load_balancer_complaints(spec: Json, stored: bool) -> Iterator[Complaint]:
    ranges = spec.get("loadBalancerSourceRanges") or []
    if spec["type"] != "LoadBalancer":
        for name in ("loadBalancerSourceRanges", "loadBalancerClass"):
            if spec.get(name):
                yield (name,), f"only for type LoadBalancer, not {spec['type']}"
        if spec.get("allocateLoadBalancerNodePorts") is not None:
            yield ("allocateLoadBalancerNodePorts",), f"only for type LoadBalancer, not {spec['type']}"
    for index, text in enumerate(ranges):
        complaint = cidr_complaint(text.strip(), stored=stored)  # the API allows blanks around it
        if complaint is not None:
            yield ("loadBalancerSourceRanges", index), complaint


def _ingress_complaints(obj: Json, stored: bool) -> Iterator[Complaint]:
    balancer = (obj.get("status") or {}).get("loadBalancer") or {}
    for index, entry in enumerate(balancer.get("ingress") or []):
        path: Path = ("status", "loadBalancer", "ingress", index)
        ip = entry.get("ip")
        if ip:
            complaint = ip_complaint(ip, stored=stored)
            if complaint is not None:
                yield (*path, "ip"), complaint
        elif entry.get("ipMode"):
            yield (*path, "ipMode"), "only beside an ip"


# ------------------------------------------------------------------------------------------- EndpointSlice and Endpoints


def endpoint_slice_complaints(obj: Json) -> Iterator[Complaint]:
    """Yield what the API server refuses in a defaulted EndpointSlice (O-6.2, O-10)."""
    yield from _slice_port_complaints(obj.get("ports") or [])
    endpoints = obj.get("endpoints") or []
    if obj["addressType"] == "FQDN":
        return
    family = Family.from_label(obj["addressType"])
    socket_family = AF_INET if family is Family.IPV4 else AF_INET6
    for index, endpoint in enumerate(endpoints):
        for position, address in enumerate(endpoint["addresses"]):
            try:
                inet_pton(socket_family, address)  # the quick check, which is enough for nearly all addresses
                ordinary = address[:4] not in ("127.", "169.", "224.", "0.0.", "fe80", "FE80") and address[:2] != "::"
            except (OSError, ValueError):
                ordinary = False
            if not ordinary and (complaint := _endpoint_address_complaint(address, family, is_stored(obj))):
                yield ("endpoints", index, "addresses", position), complaint
        node = endpoint.get("nodeName")
        if node is not None and not is_dns_subdomain(node):
            yield ("endpoints", index, "nodeName"), f"a node's name is made of {SUBDOMAIN_WORDS}; got {node!r}"


def _endpoint_address_complaint(address: str, family: Family, stored: bool) -> str | None:
    complaint = ip_complaint(address, stored=stored, family=family)
    special = special_address(address)
    return complaint or (f"an endpoint may not be {special}, got {address!r}" if special else None)


def _slice_port_complaints(ports: list[Json]) -> Iterator[Complaint]:
    names: dict[str, int] = {}
    for index, port in enumerate(ports):
        name = port.get("name") or ""
        if name and not is_dns_label(name):
            yield ("ports", index, "name"), f"a port's name is made of {LABEL_WORDS}; got {name!r}"
        if names.setdefault(name, index) != index:
            yield ("ports", index, "name"), f"the name {name!r} is taken by ports[{names[name]}]"


def endpoints_complaints(obj: Json) -> Iterator[Complaint]:
    for number, subset in enumerate(obj.get("subsets") or []):
        for group in ("addresses", "notReadyAddresses"):
            for index, address in enumerate(subset.get(group) or []):
                complaint = ip_complaint(address["ip"], stored=is_stored(obj))
                special = special_address(address["ip"])
                if complaint is None and special:
                    complaint = f"an endpoint may not be {special}, got {address['ip']!r}"
                if complaint is not None:
                    yield ("subsets", number, group, index, "ip"), complaint


# --------------------------------------------------------------------------------------------- Node, Pod and ServiceCIDR


def node_complaints(obj: Json) -> Iterator[Complaint]:
    for index, address in enumerate((obj.get("status") or {}).get("addresses") or []):
        if address["type"] in ("InternalIP", "ExternalIP"):
            complaint = ip_complaint(address["address"], stored=is_stored(obj))
            if complaint is not None:
                yield ("status", "addresses", index, "address"), complaint
    spec = obj.get("spec") or {}
    cidrs = spec.get("podCIDRs") or []
    if spec.get("podCIDR") and cidrs and cidrs[0] != spec["podCIDR"]:
        yield ("spec", "podCIDR"), f"must equal podCIDRs[0], {cidrs[0]!r}, got {spec['podCIDR']!r}"
    for index, text in enumerate(cidrs):
        complaint = cidr_complaint(text, stored=is_stored(obj))
        if complaint is not None:
            yield ("spec", "podCIDRs", index), complaint
    yield from _two_families(cidrs, ("spec", "podCIDRs"))


def _two_families(cidrs: list[str], path: Path) -> Iterator[Complaint]:
    families = [parsed[0].family for parsed in map(parse_cidr, cidrs) if parsed is not None]
    if len(cidrs) > 2 or len(families) != len(set(families)):
        yield path, "expected one CIDR, or one of each family"


def pod_complaints(obj: Json) -> Iterator[Complaint]:
    status = obj.get("status") or {}
    entries = [(("podIP",), status["podIP"])] if status.get("podIP") else []
    listed: list[Complaint] = [
        (("podIPs", index, "ip"), entry["ip"]) for index, entry in enumerate(status.get("podIPs") or [])
    ]
    for path, ip in (*entries, *listed):
        complaint = ip_complaint(ip, stored=is_stored(obj))
        if complaint is not None:
            yield ("status", *path), complaint
    if status.get("podIP") and listed and listed[0][1] != status["podIP"]:
        yield ("status", "podIP"), f"must equal podIPs[0].ip, {listed[0][1]!r}, got {status['podIP']!r}"
    node = obj["spec"].get("nodeName")
    if node and not is_dns_subdomain(node):
        yield ("spec", "nodeName"), f"a node's name is made of {SUBDOMAIN_WORDS}; got {node!r}"


def service_cidr_complaints(obj: Json) -> Iterator[Complaint]:
    cidrs = obj["spec"]["cidrs"]
    if not cidrs:
        yield ("spec", "cidrs"), "expected one CIDR, or one of each family"
    for index, text in enumerate(cidrs):
        complaint = cidr_complaint(text, stored=is_stored(obj))
        parsed = parse_cidr(text)
        if complaint is None and parsed is not None and parsed[0].base != parsed[1]:
            complaint = f"expected a network address, {parsed[0]}, got {text!r}"
        if complaint is not None:
            yield ("spec", "cidrs", index), complaint
    yield from _two_families(cidrs, ("spec", "cidrs"))


COMPLAINTS: Mapping[str, Callable[[Json], Iterator[Complaint]]] = {
    "Service": service_complaints,
    "EndpointSlice": endpoint_slice_complaints,
    "Endpoints": endpoints_complaints,
    "Node": node_complaints,
    "Pod": pod_complaints,
    "ServiceCIDR": service_cidr_complaints,
}
