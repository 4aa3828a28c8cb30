"""Recovers why kube-proxy wrote a saved rule, from chain names and comments (I-3, I-5, I-7, I-8).

This is the inverse of what kube-proxy does in iptables mode; ``ipvs_origin`` knows the rules of ipvs mode. It works on
parsed rules, not on text. In large-cluster
mode (I-12.3) rules have no comment; then the Service is that of the chain, which is found by following the jumps.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.dialects.iptables.ipvs_origin import role_in_ipvs_mode
from kpsim.dialects.iptables.layout import BUILT_IN_NAMES
from kpsim.ruleset import DROP, FOREIGN, Compare, Dnat, Field, Jump, Origin, Recent, Role, Rule, named


class Owner(NamedTuple):
    """The service port and the endpoint to which a chain belongs."""

    service: str
    protocol: str
    endpoint: str = ""


_NOBODY = Owner("", "")
_SERVICE_CHAINS = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-")
_JUMP_TARGETS = frozenset((
    "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL", "KUBE-POSTROUTING",
    "KUBE-FIREWALL", "KUBE-NODE-PORT", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
))  # fmt: skip

#: chain → text after the service port's name in the comment → role (I-7)
_DISPATCH: Mapping[str, Mapping[str, Role]] = {
    "KUBE-SERVICES": {
        "cluster IP": Role.CLUSTER_IP,
        "external IP": Role.EXTERNAL_IP,
        "loadbalancer IP": Role.LOAD_BALANCER,
        "has no endpoints": Role.NO_ENDPOINTS,
        "has no local endpoints": Role.NO_LOCAL_ENDPOINTS,
    },
    "KUBE-EXTERNAL-SERVICES": {
        "has no endpoints": Role.NO_ENDPOINTS,
        "has no local endpoints": Role.NO_LOCAL_ENDPOINTS,
    },
    "KUBE-NODEPORTS": {"": Role.NODE_PORT, "health check node port": Role.HEALTH_CHECK},
    "KUBE-SVC-": {"cluster IP": Role.MASQUERADE_CLUSTER_IP},
    "KUBE-SVL-": {"cluster IP": Role.MASQUERADE_CLUSTER_IP},
    "KUBE-FW-": {"loadbalancer IP": Role.SOURCE_RANGE},
}
#: (chain, comment) of the rules that belong to no Service → role (I-5, I-9, I-11)
_STATIC: Mapping[tuple[str, str], Role] = {
    ("KUBE-FIREWALL", "block incoming localnet connections"): Role.LOCALNET_FIREWALL,
    ("KUBE-FORWARD", "kubernetes forwarding rules"): Role.FORWARD_ACCEPT,
    ("KUBE-FORWARD", "kubernetes forwarding conntrack rule"): Role.FORWARD_CONNTRACK,
    ("KUBE-SERVICES", "kubernetes service nodeports; NOTE: this must be the last rule in this chain"): Role.NODE_PORTS,
}
_EXTERNAL_ROLES: Mapping[str, Role] = {
    "masquerade": Role.MASQUERADE_EXTERNAL,
    "masquerade LOCAL": Role.MASQUERADE_EXTERNAL,
    "pod": Role.SHORT_CIRCUIT_POD,
    "route LOCAL": Role.SHORT_CIRCUIT_LOCAL,
}
_EXTERNAL = re.compile(r"(masquerade|masquerade LOCAL|pod|route LOCAL) traffic for (\S+) external destinations")
_NOT_ACCEPTED = re.compile(r"traffic not accepted by KUBE-FW-\S+")
_REST_DROPPED = re.compile(r"other traffic to (\S+) will be dropped by KUBE-PROXY-FIREWALL")


def _protocol(rule: Rule) -> str:
    for part in rule.body:
        if type(part) is Compare and part.field is Field.L4PROTO:
            return str(part.name).upper()
    return ""


def _jump(rule: Rule) -> str:
    target = rule.target
    return target.chain if isinstance(target, Jump) else ""


def _dnat_endpoint(rule: Rule, family: Family) -> str:
    """The ``ip:port`` to which the rule translates; empty if it does not."""
    target = rule.target
    if not isinstance(target, Dnat) or target.address is None or target.port is None:
        return ""
    return join_host_port(format_ip(family, target.address), target.port)


def owners_of_chains(rules: Mapping[str, tuple[Rule, ...]], family: Family) -> dict[str, Owner]:
    """The owner of each service and endpoint chain of a nat table, as far as jumps, comments and DNAT targets tell.

    The four chains of a service port have the same hash in their names (I-2.1), so one comment tells the owner of all
    four.
    """
    by_hash: dict[str, Owner] = {}
    for dispatch in ("KUBE-SERVICES", "KUBE-NODEPORTS"):
        for rule in rules.get(dispatch, ()):
            target = _jump(rule)
            if target.startswith(_SERVICE_CHAINS):
                service = rule.comment.partition(" ")[0]
                if "/" in service:
                    by_hash.setdefault(target.rpartition("-")[2], Owner(service, _protocol(rule)))
    owners: dict[str, Owner] = {}
    for chain, chain_rules in rules.items():
        if chain.startswith(_SERVICE_CHAINS) and (owner := by_hash.get(chain.rpartition("-")[2])) is not None:
            owners[chain] = owner
            for rule in chain_rules:
                if (target := _jump(rule)).startswith("KUBE-SEP-") and target in rules:
                    endpoint = next(filter(None, (_dnat_endpoint(each, family) for each in rules[target])), "")
                    owners[target] = owner._replace(endpoint=endpoint)
    return owners


def recover_origin(
    table: str, chain: str, rule: Rule, family: Family, owners: Mapping[str, Owner] | None = None
) -> Origin:
    """Why kube-proxy wrote ``rule``; FOREIGN if it is not recognised as kube-proxy's.

    ``owners`` is the result of :func:`owners_of_chains`; it adds what the rule itself does not say. Fields that are not
    known stay empty.
    """
    if table not in ("nat", "filter", ""):
        return FOREIGN
    if chain in BUILT_IN_NAMES:
        return Origin(Role.JUMP) if _jump(rule) in _JUMP_TARGETS else FOREIGN
    if not chain.startswith("KUBE-"):
        return FOREIGN
    comment = rule.comment
    if (static := role_in_ipvs_mode(chain, rule) or _static_role(chain, comment, rule)) is not None:
        return Origin(static)
    owners = owners or {}
    owner = owners.get(chain, _NOBODY)
    origin = _endpoint_origin(chain, comment, rule, family, owners) or _service_origin(chain, comment, owner)
    if origin is None:
        return FOREIGN
    return origin._replace(protocol=_protocol(rule) or owner.protocol)


def _static_role(chain: str, comment: str, rule: Rule) -> Role | None:
    if chain == "KUBE-POSTROUTING":
        return Role.POSTROUTING
    if chain == "KUBE-MARK-MASQ":
        return Role.MARK_MASQ
    if chain == "KUBE-FORWARD" and rule.target == DROP and named(Field.CT_STATE, "INVALID") in rule.body:
        return Role.INVALID_DROP
    return _STATIC.get((chain, comment))


def _endpoint_origin(
    chain: str, comment: str, rule: Rule, family: Family, owners: Mapping[str, Owner]
) -> Origin | None:
    """The origin of a balancing, affinity or endpoint rule (I-8), with or without comment; None for other rules."""
    owner = owners.get(chain, _NOBODY)
    if chain.startswith("KUBE-SEP-"):
        service = comment or owner.service
        if endpoint := _dnat_endpoint(rule, family):
            return Origin(Role.ENDPOINT, service, "", endpoint)
        return Origin(Role.HAIRPIN, service, "", owner.endpoint) if _jump(rule) == "KUBE-MARK-MASQ" else None
    if not (chain.startswith(("KUBE-SVC-", "KUBE-SVL-")) and _jump(rule).startswith("KUBE-SEP-")):
        return None
    service, arrow, endpoint = comment.partition(" -> ")
    role = Role.AFFINITY if any(type(part) is Recent for part in rule.body) else Role.BALANCE
    if not arrow:
        service, endpoint = owner.service, owners.get(_jump(rule), _NOBODY).endpoint
    return Origin(role, service, "", endpoint)


def _service_origin(chain: str, comment: str, owner: Owner) -> Origin | None:
    if chain.startswith("KUBE-EXT-"):
        if not comment:
            return Origin(Role.EXTERNAL_POLICY, owner.service)
        found = _EXTERNAL.fullmatch(comment)
        return Origin(_EXTERNAL_ROLES[found[1]], found[2]) if found else None
    if found := _REST_DROPPED.fullmatch(comment):
        return Origin(Role.SOURCE_RANGE_DROP, found[1])
    service, _, purpose = comment.partition(" ")
    if "/" not in service:
        return None
    if chain == "KUBE-PROXY-FIREWALL":
        return Origin(Role.SOURCE_RANGE_DROP, service) if _NOT_ACCEPTED.fullmatch(purpose) else None
    kind = chain if chain in _DISPATCH else chain[: chain.rfind("-") + 1]
    role = _DISPATCH.get(kind, {}).get(purpose)
    return Origin(role, service) if role is not None else None
