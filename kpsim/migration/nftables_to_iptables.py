"""What is known of the way back, from nftables to iptables mode (MODE-1, NFT-12, NFT-8.14).

What first packets show comes from the comparison of behaviour, not from here.
"""

from collections.abc import Iterator

from kpsim.migration.concerns import services_with_affinity, whole_cluster
from kpsim.migration.entering_iptables import DROPS_INVALID
from kpsim.migration.facts import Change, Remark, Setting, Situation


def _settings(situation: Situation) -> Iterator[Setting]:
    if not situation.cluster.config.node_port_addresses:
        yield Setting(
            "nodePortAddresses",
            ["primary"],
            "Keeps node ports on the primary addresses of a node, as today. Left out, iptables mode serves them on all addresses, "
            "127.0.0.1 included.",
            "NFT-1.8",
        )


CHANGE = Change(
    remarks=(
        Remark(
            "New connections wait while a node changes over",
            "When it starts, kube-proxy deletes the tables of nftables mode. Until its first sync has ended, no new connection to a "
            "Service works by that node. Connections that exist go on: connection tracking remembers where they lead.",
            "NFT-8.14, FIG-2",
            whole_cluster,
        ),
        Remark(
            "Session affinity starts anew, and then remembers less",
            "What nftables mode remembered of clients goes with its sets, so every client is balanced anew once. Afterwards an endpoint "
            "remembers the last 100 clients instead of 65,535.",
            "K-4.1, NFT-6.11",
            services_with_affinity,
        ),
        DROPS_INVALID,
        Remark(
            "Syncs and first packets cost more the more Services there are",
            "A first packet is compared with the Services one by one, and every sync writes the rules that dispatch to all of them.",
            "NFT-12, K-10",
            whole_cluster,
        ),
    ),
    settings=_settings,
    steps=(
        "Try one node, or one pool: clusters whose nodes run different modes are supported. Set the configuration below there and "
        "restart kube-proxy.",
        "Watch `kubeproxy_sync_proxy_rules_iptables_restore_failures_total`, and whether load balancers keep the node.",
        "Go on pool by pool. Drain a node first if it must not refuse new connections while it changes over.",
    ),
)
