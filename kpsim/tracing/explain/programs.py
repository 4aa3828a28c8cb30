"""Whose a rule is that is not kube-proxy's, as far as names tell: by its chain, by the chain it jumps to, by its comment.

Counterpart: none. It knows the names that other programs give their chains, and nothing of what a rule does.
"""

from kpsim.dialects.iptables import BUILT_IN_NAMES
from kpsim.ruleset import Goto, Jump, Rule

#: how the names of a program's chains begin → the program
_CHAINS = {
    "KUBE-FIREWALL": "kubelet", "KUBE-KUBELET-": "kubelet", "KUBE-MARK-DROP": "kubelet", "KUBE-IPTABLES-HINT": "kubelet",
    "KUBE-ROUTER-": "kube-router", "KUBE-POD-FW-": "kube-router", "KUBE-NWPLCY-": "kube-router",
    "CNI-": "a CNI plugin", "FLANNEL-": "flannel", "cali-": "Calico", "CILIUM_": "Cilium", "WEAVE": "Weave Net",
    "DOCKER": "Docker", "LIBVIRT_": "libvirt", "ISTIO_": "Istio", "ufw-": "ufw", "ufw6-": "ufw", "f2b-": "fail2ban",
    "ts-": "Tailscale",
    "INPUT_ZONES": "firewalld", "FORWARD_IN_ZONES": "firewalld", "FORWARD_OUT_ZONES": "firewalld",
    "PREROUTING_ZONES": "firewalld", "POSTROUTING_ZONES": "firewalld", "INPUT_direct": "firewalld",
    "FORWARD_direct": "firewalld", "OUTPUT_direct": "firewalld", "PREROUTING_direct": "firewalld",
    "POSTROUTING_direct": "firewalld", "IN_": "firewalld", "FWDI_": "firewalld", "FWDO_": "firewalld", "PRE_": "firewalld",
    "POST_": "firewalld",
}  # fmt: skip
#: how comments on a program's rules in built-in chains begin → the program
_COMMENTS = {
    "NodeLocal DNS Cache": "NodeLocal DNSCache", "flanneld": "flannel", "cali:": "Calico", "CNI ": "a CNI plugin",
    'name: "': "a CNI plugin", "cilium": "Cilium",
}  # fmt: skip


def program_of(chain: str, rule: Rule) -> str:
    """The program's name; empty if nothing tells."""
    target = rule.target.chain if isinstance(rule.target, Jump | Goto) else ""
    names = (target,) if chain in BUILT_IN_NAMES else (chain, target)
    for text, known in (*((name, _CHAINS) for name in names), (rule.comment, _COMMENTS)):
        for beginning, program in known.items():
            if text.startswith(beginning):
                return program
    return ""
