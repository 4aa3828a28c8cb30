"""What is known of the change from ipvs to nftables mode: what leaving ipvs means, and what nftables mode asks for."""

from collections.abc import Iterator

from kpsim.migration import iptables_to_nftables, leaving_ipvs
from kpsim.migration.concerns import has_node_ports, services_with_health_check
from kpsim.migration.facts import Change, Remark, Setting, Situation
from kpsim.ruleset import Hook

_FIREWALL = (
    "Packets to Services passed INPUT of the host; then they pass FORWARD, where nftables mode opens nothing. This firewall has to "
    "accept them there.",
    "IPVS-10.2, NFT-9.4",
)


def _settings(situation: Situation) -> Iterator[Setting]:
    if has_node_ports(situation) and not situation.cluster.config.node_port_addresses:
        yield Setting(
            "nodePortAddresses",
            ["0.0.0.0/0", "::/0"],
            "Keeps node ports on every address of a node but 127.0.0.1, as today. Left out, nftables mode serves them on the node's "
            "primary addresses only; narrow it to primary in a second step, when nobody dials the others.",
            "NFT-1.8",
        )


CHANGE = Change(
    thresholds=iptables_to_nftables.CHANGE.thresholds,
    remarks=(
        leaving_ipvs.connections_end(
            "When it starts in nftables mode, kube-proxy flushes all virtual servers, and deletes kube-ipvs0, its rules and its ipsets.",
            "IPVS-9.3, IPVS-13.5",
        ),
        *leaving_ipvs.REMARKS,
        Remark(
            "Health check node ports are no longer opened in the firewall",
            "ipvs mode accepts them in INPUT. nftables mode opens no hole in other firewalls: where INPUT of a node drops or refuses "
            "the port, load balancers take every node for unhealthy.",
            "IPVS-8.4, MODE-1",
            services_with_health_check,
        ),
    ),
    questions=(*leaving_ipvs.QUESTIONS, *iptables_to_nftables.CHANGE.questions[:4]),
    programs=iptables_to_nftables.CHANGE.programs,
    orders=iptables_to_nftables.CHANGE.orders,
    closed={
        Hook.INPUT: (
            "Health check node ports were accepted before this rule, by kube-proxy. Now this firewall has to accept them. What it does "
            "to packets to Services ends: these are forwarded then.",
            "IPVS-8.4, IPVS-15",
        ),
        Hook.FORWARD: _FIREWALL,
    },
    referred=iptables_to_nftables.CHANGE.referred,
    marked=iptables_to_nftables.CHANGE.marked,
    settings=_settings,
    dropped=leaving_ipvs.DROPPED,
    steps=(
        *leaving_ipvs.FIRST_STEPS,
        "Set the configuration below there and restart kube-proxy: it removes what ipvs mode left, then writes its own rules. `ip link "
        "show kube-ipvs0` and `ipvsadm -Ln` then find nothing.",
        "Watch `kubeproxy_sync_proxy_rules_nftables_sync_failures_total`, and whether load balancers keep the node.",
        "Go on pool by pool. Boot nodes at the next occasion: what stays behind is gone then.",
        "The way back is the old configuration: in ipvs mode kube-proxy deletes its nftables tables when it starts.",
    ),
)
