"""Why kube-proxy wrote the rules that a node in ipvs mode saved (IPVS-8): they say the same as those that kube-proxy writes."""

import re

import pytest
from proxiers import NODE_IP, Rig, endpoint_slice, make_settings, port, service, slice_port

from kpsim.addresses import Family
from kpsim.config import Host, Mode
from kpsim.dialects import dialect_reading, read_ipsets
from kpsim.ruleset import FOREIGN, Origin, Role, Ruleset

PLACES = {
    Family.IPV4: ("172.30.10.", "203.0.113.", "10.180.0.3", "198.51.100.0/24", "192.168.0.0/24"),
    Family.IPV6: ("fd00:172:30::", "2001:db8:113::", "fd00:180::3", "2001:db8:100::/64", "2001:db8::/64"),
}
PORTS = [
    port(number, name, name.upper(), 30000 + number) for number, name in ((80, "tcp"), (53, "udp"), (5060, "sctp"))
]


def rig_with_every_rule(family: Family) -> Rig:
    """A Local and another LoadBalancer, with external IPs; the source ranges of the first leave the node out."""
    inside, outside, pod, clients, nodes = PLACES[family]
    rig = Rig(make_settings(family, Host((NODE_IP, "2001:db8::2")), mode=Mode.IPVS))
    for number, policy, ranges in ((1, "Local", [clients]), (2, "Cluster", [nodes])):
        ports = [each | {"nodePort": each["nodePort"] + number} for each in PORTS]
        ip = f"{inside}{number}"
        own = {"ipFamilies": [family.label], "clusterIPs": [ip], "loadBalancerSourceRanges": ranges}
        more = {"type": "LoadBalancer", "externalTrafficPolicy": policy, "externalIPs": [f"{outside}1{number}"]}
        rig.apply(service(f"shop/{policy}", ports, cluster_ip=ip, ingress=[f"{outside}{number}"], **own, **more))
    rig.apply(endpoint_slice("shop/Local", [pod], [slice_port(80, "tcp")], family=family.label))
    return rig


def read_back(rig: Rig, text: str = "") -> Ruleset:
    """The saved rules, read; ``text`` are further lines of nat."""
    saved = rig.proxier.backend.save(rig.proxier.held)
    parts = dict(re.findall(r"# (\S[^\n]*)\n(.*?)(?=# |\Z)", saved, re.DOTALL))
    rules = next(part for command, part in parts.items() if command.endswith("tables-save"))
    before, nat, after = rules.partition("*nat\n")
    rules = before + nat + after.replace("COMMIT\n", f"{text}COMMIT\n", 1)
    (found,) = dialect_reading(rules).parse(rules, rig.settings.family, ipsets=read_ipsets(parts["ipset save"]))
    return found


def origins(ruleset: Ruleset) -> list[tuple[str, Origin]]:
    return [
        (chain.name, rule.origin) for table in ruleset.in_order() for chain in table.ordered() for rule in chain.rules
    ]


@pytest.mark.parametrize("family", Family)
def test_saved_rules_say_why_they_were_written(family: Family) -> None:
    rig = rig_with_every_rule(family)
    written = origins(rig.sync().held.ruleset)
    dropped = [origin for chain, origin in written if chain == "KUBE-IPVS-OUT-FILTER"]
    assert dropped == [
        Origin(Role.SOURCE_RANGE_DROP, f"shop/Local:{name}", name.upper()) for name in ("sctp", "tcp", "udp")
    ]
    # a rule of that chain names no Service
    wanted = [(c, Origin(o.role)) if c == "KUBE-IPVS-OUT-FILTER" else (c, o) for c, o in written]
    assert origins(read_back(rig)) == wanted
    # jumps, nat and filter: all rules of IPVS-8.4 and IPVS-8.5, but those for other ways to detect local pods
    assert len(wanted) == 9 + 24 + 16 and FOREIGN not in {origin for _, origin in wanted}


def test_each_meaning_is_that_of_its_rule() -> None:
    """What IPVS-8.4 and IPVS-8.5 say of some rules, chain by chain and in their order."""
    rig = rig_with_every_rule(Family.IPV4)
    rig.sync()
    found = origins(read_back(rig))

    def roles(chain: str) -> list[Role]:
        return [origin.role for name, origin in found if name == chain]

    assert roles("KUBE-LOAD-BALANCER") == [Role.EXTERNAL_POLICY, Role.MASQUERADE_EXTERNAL]
    assert roles("KUBE-SOURCE-RANGES-FIREWALL") == [Role.SOURCE_RANGE, Role.SOURCE_RANGE, Role.SOURCE_RANGE_DROP]
    assert roles("KUBE-POSTROUTING")[0] is Role.HAIRPIN
    assert roles("KUBE-IPVS-FILTER")[-2:] == [Role.HEALTH_CHECK, Role.UNDEFINED_SERVICE_PORT]
    assert roles("KUBE-SERVICES")[0] is Role.LOOPBACK_SOURCE
    assert roles("INPUT") == [Role.JUMP] * 3


def test_other_peoples_rules_in_its_chains_are_foreign() -> None:
    rig = rig_with_every_rule(Family.IPV4)
    rig.sync()
    more = "-A KUBE-SERVICES -p tcp -j RETURN\n-A KUBE-SERVICES -s 10.0.0.0/8 -j ACCEPT\n-A KUBE-NODE-PORT -j RETURN\n"
    found = [origin for chain, origin in origins(read_back(rig, more)) if origin == FOREIGN]
    assert len(found) == 3
