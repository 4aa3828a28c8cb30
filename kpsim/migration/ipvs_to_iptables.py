"""What is known of the change from ipvs to iptables mode: what leaving ipvs means, and what iptables mode does otherwise."""

from collections.abc import Iterator

from kpsim.migration import leaving_ipvs
from kpsim.migration.concerns import has_node_ports, services_with_affinity, whole_cluster
from kpsim.migration.entering_iptables import DROPS_INVALID
from kpsim.migration.facts import Change, Remark, Setting, Situation
from kpsim.ruleset import Hook


def _settings(situation: Situation) -> Iterator[Setting]:
    if has_node_ports(situation):
        yield Setting(
            "iptables.localhostNodePorts",
            False,
            "Keeps node ports off 127.0.0.1, as today, and keeps kube-proxy from setting route_localnet.",
            "I-1, IPVS-15",
        )


CHANGE = Change(
    remarks=(
        Remark(
            "What ipvs mode left stays until somebody removes it",
            "kube-proxy in iptables mode does not clean up after ipvs mode. kube-ipvs0, the virtual servers, the ipsets and the chains "
            "KUBE-IPVS-FILTER, KUBE-NODE-PORT and their like stay as they are, and grow old: addresses of deleted Services stay the "
            "node's own, and new connections to addresses of Services are still refused by KUBE-IPVS-FILTER where no rule translates "
            "them. Run `kube-proxy --cleanup` on the node, or boot it, before the new mode starts. This page tells what packets meet "
            "after that.",
            "IPVS-9.3, NFT-8.14",
            whole_cluster,
            stops=True,
        ),
        leaving_ipvs.connections_end("`kube-proxy --cleanup` flushes all virtual servers.", "IPVS-9.3, IPVS-13.5"),
        *leaving_ipvs.REMARKS,
        Remark(
            "Affinity remembers less",
            "An endpoint remembers the last 100 clients. ip_vs remembers all.",
            "K-4.1, IPVS-11.4",
            services_with_affinity,
        ),
        DROPS_INVALID,
        Remark(
            "First packets and syncs cost more the more Services there are",
            "A first packet is compared with the Services one by one, where ip_vs looks its virtual server up. nftables mode does not have "
            "this cost; it is what upstream recommends to users of ipvs mode.",
            "K-10, IPVS-1.5",
            whole_cluster,
        ),
    ),
    questions=leaving_ipvs.QUESTIONS,
    closed={
        Hook.INPUT: (
            "Packets to Services passed this chain and were not opened by kube-proxy. Then they are forwarded, and it no longer sees "
            "them.",
            "IPVS-15",
        ),
        Hook.FORWARD: (
            "Packets to Services passed INPUT of the host; then they pass FORWARD. kube-proxy accepts before this rule what it "
            "masquerades and what belongs to known connections; this firewall has to accept the rest.",
            "IPVS-10.2, I-11",
        ),
    },
    settings=_settings,
    dropped=leaving_ipvs.DROPPED,
    steps=(
        *leaving_ipvs.FIRST_STEPS,
        "Stop kube-proxy there and run `kube-proxy --cleanup`, or boot the node. Then start kube-proxy with the configuration below.",
        "Watch `kubeproxy_sync_proxy_rules_iptables_restore_failures_total`, and whether load balancers keep the node.",
        "Go on pool by pool.",
    ),
)
