"""Recovers why kube-proxy wrote a rule or an element, from names and comments (NFT-2, NFT-5, NFT-6).

This is the inverse of what kube-proxy's nftables backend does, and works on parsed rules. Two generations of kube-proxy
are known: until 1.35 every endpoint has a chain, and masquerading marks are set in a chain of their own.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.maps import Map
from kpsim.ruleset import (
    DROP,
    FOREIGN,
    Assign,
    Chain,
    Dispatch,
    Dnat,
    Element,
    Goto,
    Jump,
    Key,
    Lookup,
    Mapped,
    Masquerade,
    Origin,
    Reject,
    Role,
    Rule,
    Ruleset,
    Set,
    Space,
    Table,
    UpdateSet,
)

_TABLE = "kube-proxy"
_NAME = re.compile(
    r"(service|local|external|firewall|endpoint)-[A-Z2-7]{8}-([^/]+)/([^/]+)/(tcp|udp|sctp)/([^/]*?)(?:__.*)?"
)
_MARKING = "mark-for-masquerade"


class Owner(NamedTuple):
    """The service port that a chain belongs to, the kind of chain, and the endpoint of an endpoint's chain."""

    kind: str
    service: str
    protocol: str
    endpoint: str = ""

    def origin(self, role: Role, endpoint: str = "") -> Origin:
        return Origin(role, self.service, self.protocol, endpoint)


def with_origins(ruleset: Ruleset) -> Ruleset:
    """The ruleset with the origins of kube-proxy's own rules and elements."""
    key = next((key for key in ruleset.tables if key.name == _TABLE and key.space is Space.of(ruleset.family)), None)
    if key is None:
        return ruleset
    return replace(ruleset, tables=ruleset.tables.set(key, _Recovery(ruleset.tables[key], ruleset.family).table()))


class _Recovery:
    """Finds the origins of one table."""

    def __init__(self, table: Table, family: Family) -> None:
        self._table, self._family = table, family
        self._owners: dict[str, Owner] = {}
        for name, chain in table.chains.items():
            if (owner := _owner(name)) is not None:
                self._owners[name] = (
                    owner._replace(endpoint=self._endpoint_of(chain)) if owner.kind == "endpoint" else owner
                )

    def table(self) -> Table:
        chains = {name: self._chain(chain) for name, chain in self._table.chains.items()}
        sets = {name: self._set(each) for name, each in self._table.sets.items()}
        return replace(self._table, chains=Map(chains), sets=Map(sets))

    def _endpoint_of(self, chain: Chain) -> str:
        """The endpoint that a chain translates to."""
        for rule in chain.rules:
            for part in rule.body:
                if isinstance(part, Dnat) and part.address is not None:
                    return join_host_port(format_ip(self._family, part.address), part.port or 0)
        return ""

    # --- rules --------------------------------------------------------------------------------------------------------

    def _chain(self, chain: Chain) -> Chain:
        owner = self._owners.get(chain.name)
        rules = tuple(
            self._of_service(rule, owner) if owner is not None else _with(rule, _fixed_role(chain, rule))
            for rule in chain.rules
        )
        return Chain(chain.name, rules, chain.base, chain.comment)

    def _of_service(self, rule: Rule, owner: Owner) -> Rule:
        target = rule.target
        match owner.kind:
            case "firewall":
                return _with(rule, owner.origin(Role.SOURCE_RANGE_DROP))
            case "external":
                return _with(rule, owner.origin(_external_role(rule)))
            case "endpoint":
                role = Role.ENDPOINT if isinstance(target, Dnat | UpdateSet) else Role.HAIRPIN
                return _with(rule, owner.origin(role, owner.endpoint))
            case _:  # service, local
                return self._choosing(rule, owner)

    def _choosing(self, rule: Rule, owner: Owner) -> Rule:
        """A rule that leads to an endpoint, or that marks packets before."""
        target = rule.target
        if isinstance(target, Goto) and any(isinstance(part, Lookup) for part in rule.body):
            to = self._owners.get(target.chain)
            return _with(rule, owner.origin(Role.AFFINITY, to.endpoint if to is not None else ""))
        if isinstance(target, Assign) or target == Jump(_MARKING):
            return _with(rule, owner.origin(Role.MASQUERADE_CLUSTER_IP))
        return _with(self._balancing(rule, owner), owner.origin(Role.BALANCE))

    def _balancing(self, rule: Rule, owner: Owner) -> Rule:
        """The rule with the origins of the elements that a draw chooses among."""
        match rule.target:
            case Dispatch(_, Set() as elements) as target:
                named = {key: self._drawn(element, owner) for key, element in elements.elements.items()}
                return Rule(
                    (*rule.body[:-1], replace(target, map=replace(elements, elements=Map(named)))),
                    rule.comment,
                    rule.origin,
                    rule.spelling,
                )
            case Dnat(_, _, _, Mapped(_, Set() as elements) as mapped) as target:
                named = {key: self._translated(element, owner) for key, element in elements.elements.items()}
                to = replace(target, mapped=replace(mapped, map=replace(elements, elements=Map(named))))
                return Rule((*rule.body[:-1], to), rule.comment, rule.origin, rule.spelling)
            case _:
                return rule

    def _drawn(self, element: Element, owner: Owner) -> Element:
        to = self._owners.get(element.value.chain) if isinstance(element.value, Goto | Jump) else None
        return replace(element, origin=owner.origin(Role.BALANCE, to.endpoint if to is not None else ""))

    def _translated(self, element: Element, owner: Owner) -> Element:
        match element.value:
            case (int() as address, int() as port):
                endpoint = join_host_port(format_ip(self._family, address), port)
                return replace(element, origin=owner.origin(Role.ENDPOINT, endpoint))
            case _:
                return element

    # --- elements -----------------------------------------------------------------------------------------------------

    def _set(self, of: Set) -> Set:
        read = _ELEMENTS.get(of.name)
        if read is None:
            return of
        return replace(
            of, elements=Map({key: replace(each, origin=read(self, key, each)) for key, each in of.elements.items()})
        )

    def _has(self, name: str, key: Key) -> bool:
        return name in self._table.sets and key in self._table.sets[name].elements

    def service_ip(self, key: Key, element: Element) -> Origin:
        """Of the addresses that lead to a chain for outside traffic, those with a firewall are known to be load balancers'."""
        owner = self._owner_of(element)
        if self._has("cluster-ips", key[:1]):
            role = Role.CLUSTER_IP
        else:
            role = Role.LOAD_BALANCER if self._has("firewall-ips", key) else Role.EXTERNAL_IP
        return owner.origin(role)

    def node_port(self, key: Key, element: Element) -> Origin:
        return self._owner_of(element).origin(Role.NODE_PORT)

    def firewall(self, key: Key, element: Element) -> Origin:
        return self._owner_of(element).origin(Role.SOURCE_RANGE)

    def refused(self, key: Key, element: Element) -> Origin:
        """The comment names the service port (NFT-6.5)."""
        role = Role.NO_LOCAL_ENDPOINTS if element.value == DROP else Role.NO_ENDPOINTS
        protocol = next((str(part).upper() for part in key if isinstance(part, str)), "")
        return Origin(role, element.comment, protocol)

    def cluster_ip(self, key: Key, element: Element) -> Origin:
        return Origin(Role.CLUSTER_IP)

    def hairpin(self, key: Key, element: Element) -> Origin:
        return Origin(Role.HAIRPIN)

    def _owner_of(self, element: Element) -> Owner:
        owner = self._owners.get(element.value.chain) if isinstance(element.value, Goto | Jump) else None
        return owner or Owner("", "", "")


_ELEMENTS = {
    "service-ips": _Recovery.service_ip, "service-nodeports": _Recovery.node_port, "firewall-ips": _Recovery.firewall,
    "no-endpoint-services": _Recovery.refused, "no-endpoint-nodeports": _Recovery.refused,
    "cluster-ips": _Recovery.cluster_ip, "hairpin-connections": _Recovery.hairpin,
}  # fmt: skip


def _owner(name: str) -> Owner | None:
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    kind, namespace, service, protocol, port = found.groups()
    return Owner(kind, f"{namespace}/{service}" + (f":{port}" if port else ""), protocol.upper())


def _with(rule: Rule, origin: Origin) -> Rule:
    return Rule(rule.body, rule.comment, origin, rule.spelling)


def _external_role(rule: Rule) -> Role:
    target = rule.target
    if isinstance(target, Assign) or target == Jump(_MARKING):
        return Role.MASQUERADE_EXTERNAL
    if "pod traffic" in rule.comment:
        return Role.SHORT_CIRCUIT_POD
    if "local traffic" in rule.comment:
        return Role.SHORT_CIRCUIT_LOCAL
    return Role.EXTERNAL_POLICY


#: the map that a rule looks into → why it does
_DISPATCHES: Mapping[str, Role] = {
    "service-ips": Role.SERVICES, "service-nodeports": Role.NODE_PORTS, "firewall-ips": Role.SOURCE_RANGE,
    "no-endpoint-services": Role.NO_ENDPOINTS, "no-endpoint-nodeports": Role.NO_ENDPOINTS,
}  # fmt: skip


def _fixed_role(chain: Chain, rule: Rule) -> Origin:
    """Why a rule of a chain without Service exists (NFT-3.2, NFT-5)."""
    target = rule.target
    match target:
        case Jump() if chain.base is not None:
            return Origin(Role.JUMP)
        case Dispatch(_, to) if not isinstance(to, Set):
            return Origin(_DISPATCHES.get(to.name, Role.FOREIGN))
        case Masquerade():
            return Origin(Role.HAIRPIN if any(isinstance(part, Lookup) for part in rule.body) else Role.POSTROUTING)
        case Reject():
            return Origin(Role.UNDEFINED_PORT if chain.name == "cluster-ips-check" else Role.NO_ENDPOINTS)
        case Assign() | Jump(chain=str()) if chain.name in ("services", _MARKING):
            return Origin(Role.MARK_MASQ if chain.name == _MARKING else Role.MASQUERADE_CLUSTER_IP)
        case _ if chain.name == "cluster-ips-check":
            return Origin(Role.UNALLOCATED_CLUSTER_IP)
        case _ if chain.name == "masquerading":
            return Origin(Role.POSTROUTING)
        case _:
            return FOREIGN
