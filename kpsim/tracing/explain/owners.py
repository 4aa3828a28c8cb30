"""Names the program (Docker, Calico, firewalld, …) that probably wrote a rule which is not kube-proxy's.

It looks at the rule's table, its chain, the chain that the rule leads to, and the rule's comment. kube-proxy's own
rules are recognised by their origin, not here.
"""

import enum
from collections.abc import Mapping

from kpsim.ruleset import Goto, Jump, RuleReference


class Space(enum.Enum):
    """The kind of thing that has a name."""

    TABLE = enum.auto()  #: of nft, where a program has tables of its own
    CHAIN = enum.auto()
    COMMENT = enum.auto()  #: a rule's comment; only looked at if no table and no chain tells the program


#: kind and beginning of a name → the program that uses such names; the first row that fits counts
OWNERS: Mapping[tuple[Space, str], str] = {
    **{(Space.TABLE, prefix): program for prefix, program in {
        "firewalld": "firewalld", "f2b-table": "fail2ban", "libvirt_network": "libvirt", "docker-bridges": "Docker",
        "netavark": "Netavark", "calico": "Calico", "flannel-ipv": "flannel", "kindnet": "kindnet", "crowdsec": "CrowdSec",
        "cni_hostport": "a CNI plugin", "cni_plugins_masquerade": "a CNI plugin", "ovn-kubernetes": "OVN-Kubernetes",
    }.items()},
    **{(Space.CHAIN, prefix): program for prefix, program in {
        "KUBE-FIREWALL": "kubelet", "KUBE-KUBELET-": "kubelet", "KUBE-MARK-DROP": "kubelet", "KUBE-IPTABLES-HINT": "kubelet",
        "KUBE-ROUTER-": "kube-router", "KUBE-POD-FW-": "kube-router", "KUBE-NWPLCY-": "kube-router",
        "CNI-": "a CNI plugin", "FLANNEL-": "flannel", "cali-": "Calico", "CILIUM_": "Cilium", "WEAVE": "Weave Net",
        "DOCKER": "Docker", "LIBVIRT_": "libvirt", "ISTIO_": "Istio", "ufw-": "ufw", "ufw6-": "ufw", "f2b-": "fail2ban",
        "ts-": "Tailscale",
        "INPUT_ZONES": "firewalld", "FORWARD_IN_ZONES": "firewalld", "FORWARD_OUT_ZONES": "firewalld",
        "PREROUTING_ZONES": "firewalld", "POSTROUTING_ZONES": "firewalld", "INPUT_direct": "firewalld",
        "FORWARD_direct": "firewalld", "OUTPUT_direct": "firewalld", "PREROUTING_direct": "firewalld",
        "POSTROUTING_direct": "firewalld", "IN_": "firewalld", "FWDI_": "firewalld", "FWDO_": "firewalld",
        "PRE_": "firewalld", "POST_": "firewalld",
    }.items()},
    **{(Space.COMMENT, prefix): program for prefix, program in {
        "NodeLocal DNS Cache": "NodeLocal DNSCache", "flanneld": "flannel", "cali:": "Calico", "CNI ": "a CNI plugin",
        'name: "': "a CNI plugin", "cilium": "Cilium",
    }.items()},
}  # fmt: skip


def owner_of(space: Space, name: str) -> str:
    """The program that uses such names; empty if none is known."""
    return next((program for (of, prefix), program in OWNERS.items() if of is space and name.startswith(prefix)), "")


def program_of(at: RuleReference) -> str:
    """The program that probably wrote a rule; empty if no name tells, or for a chain's policy.

    All programs use the tables and built-in chains of iptables, so the names of those tell nothing.
    """
    rule = at.rule
    if rule is None:
        return ""
    target = rule.target.chain if isinstance(rule.target, Jump | Goto) else ""
    names = owner_of(Space.TABLE, at.table.name) or owner_of(Space.CHAIN, at.chain) or owner_of(Space.CHAIN, target)
    return names or owner_of(Space.COMMENT, rule.comment)
