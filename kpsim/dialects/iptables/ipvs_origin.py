"""Recovers why kube-proxy wrote a saved rule of ipvs mode, from its chain, the set that it looks up, and its end (IPVS-8).

No rule of that mode but those of KUBE-IPVS-OUT-FILTER belongs to one Service, and those do not name it.
"""

from collections.abc import Mapping

from kpsim.ruleset import RETURN, Compare, Field, Jump, Lookup, Role, Rule

_MARK_MASQ, _NODE_PORT = "KUBE-MARK-MASQ", "KUBE-NODE-PORT"
_LOCAL_NODE_PORTS = ("NODE-PORT-LOCAL-TCP", "NODE-PORT-LOCAL-UDP", "NODE-PORT-LOCAL-SCTP-HASH")
_FRONTENDS: Mapping[str, Role] = {
    "CLUSTER-IP": Role.CLUSTER_IP,
    "EXTERNAL-IP": Role.EXTERNAL_IP,
    "EXTERNAL-IP-LOCAL": Role.EXTERNAL_IP,
    "LOAD-BALANCER": Role.LOAD_BALANCER,
}
#: chain → set without KUBE- → role, for rules that do not mark
_BY_SET: Mapping[str, Mapping[str, Role]] = {
    "KUBE-SERVICES": _FRONTENDS,
    "KUBE-IPVS-FILTER": {
        **_FRONTENDS,
        "HEALTH-CHECK-NODE-PORT": Role.HEALTH_CHECK,
        "IPVS-IPS": Role.UNDEFINED_SERVICE_PORT,
    },
    "KUBE-LOAD-BALANCER": {"LOAD-BALANCER-LOCAL": Role.EXTERNAL_POLICY},
    _NODE_PORT: {
        "HEALTH-CHECK-NODE-PORT": Role.HEALTH_CHECK,
        **dict.fromkeys(_LOCAL_NODE_PORTS, Role.EXTERNAL_POLICY),
    },
    "KUBE-POSTROUTING": {"LOOP-BACK": Role.HAIRPIN},
    "KUBE-PROXY-FIREWALL": {"LOAD-BALANCER-FW": Role.SOURCE_RANGE},
    "KUBE-SOURCE-RANGES-FIREWALL": {
        "LOAD-BALANCER-SOURCE-CIDR": Role.SOURCE_RANGE,
        "LOAD-BALANCER-SOURCE-IP": Role.SOURCE_RANGE,
    },
}
#: chain → role of its rules that look up no set
_WITHOUT_SET: Mapping[str, Role] = {
    "KUBE-LOAD-BALANCER": Role.MASQUERADE_EXTERNAL,
    "KUBE-SOURCE-RANGES-FIREWALL": Role.SOURCE_RANGE_DROP,
    "KUBE-IPVS-OUT-FILTER": Role.SOURCE_RANGE_DROP,
}
#: names of IPv6 are cut to 31 characters (IPVS-7.2)
_CUT = {
    "LOAD-BALANCER-SOURCE-CID": "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-LOCAL-SCTP-HAS": "NODE-PORT-LOCAL-SCTP-HASH",
}


def role_in_ipvs_mode(chain: str, rule: Rule) -> Role | None:
    """Why kube-proxy in ipvs mode wrote a rule of this chain; None if it writes no such rule, or also in iptables mode."""
    target = rule.target
    to = target.chain if isinstance(target, Jump) else ""
    looked_up = _set_of(rule)
    if looked_up:
        if to == _MARK_MASQ and chain in _BY_SET:
            return Role.MASQUERADE_CLUSTER_IP if looked_up == "CLUSTER-IP" else Role.MASQUERADE_EXTERNAL
        return _BY_SET.get(chain, {}).get(looked_up)
    if chain == "KUBE-SERVICES":
        if to == _NODE_PORT:
            return Role.NODE_PORTS
        by_source = any(type(part) is Compare and part.field is Field.SADDR for part in rule.body)
        return Role.LOOPBACK_SOURCE if by_source and target == RETURN else None
    return _WITHOUT_SET.get(chain)


def _set_of(rule: Rule) -> str:
    """The set of kube-proxy that the rule looks up, in its IPv4 name without ``KUBE-``; empty if there is none."""
    name = next((part.set.name for part in rule.body if type(part) is Lookup), "")
    short = name.removeprefix("KUBE-").removeprefix("6-")
    return "" if short == name else _CUT.get(short, short)
