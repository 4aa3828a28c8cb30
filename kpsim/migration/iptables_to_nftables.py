"""What is known of the change from iptables to nftables mode (MODE-1, NFT-12, VER-2).

What first packets show comes from the comparison of behaviour, not from here.
"""

from collections.abc import Iterator

from kpsim.migration.concerns import (
    has_node_ports,
    services_with_affinity,
    services_with_health_check,
    unless_liberal,
    unless_rules_are_known,
    whole_cluster,
)
from kpsim.migration.facts import (
    Change,
    Order,
    Question,
    Remark,
    Setting,
    Severity,
    Situation,
    Subject,
    Threshold,
)
from kpsim.ruleset import Hook

_THRESHOLDS = (
    Threshold(
        Subject.KERNEL,
        (5, 13),
        Severity.FAILS,
        "kube-proxy ends when it starts: nftables mode needs Linux 5.13. It does not fall back to another mode.",
        "NFT-8.13",
    ),
    Threshold(
        Subject.KERNEL,
        (6, 1),
        Severity.CHECK,
        "before Linux 6.1 a reply outside the TCP window leaves the node untranslated, and the client resets the connection: "
        "conntrack.tcpBeLiberal prevents that.",
        "MODE-1",
    ),
    Threshold(
        Subject.KUBE_PROXY,
        (1, 29),
        Severity.FAILS,
        "this release has no nftables mode: upgrade first.",
        "VER-2",
    ),
    Threshold(
        Subject.KUBE_PROXY,
        (1, 31),
        Severity.FAILS,
        "nftables mode is alpha in this release and off without its feature gate: upgrade first.",
        "VER-2",
    ),
    Threshold(
        Subject.KUBE_PROXY,
        (1, 33),
        Severity.CHECK,
        "nftables mode is beta in this release: a restart writes all maps anew, and nothing repairs rules by the hour.",
        "VER-2",
    ),
    Threshold(
        Subject.KUBE_PROXY,
        (1, 36),
        Severity.CHECK,
        "this page describes kube-proxy 1.36. The rules of this release have another layout; the differences between the modes "
        "are the same.",
        "VER-2",
    ),
)

_REMARKS = (
    Remark(
        "New connections wait while a node changes over",
        "When it starts, kube-proxy deletes the rules of the other mode. Until its first sync has ended, no new connection to a "
        "Service works by that node. Connections that exist go on: connection tracking remembers where they lead. The table of "
        "costs below says how long a first sync takes.",
        "CFG-5, I-18, FIG-2",
        whole_cluster,
        stops=False,
    ),
    Remark(
        "Session affinity starts anew, and then remembers more",
        "What iptables mode remembered of clients goes with its rules, so every client is balanced anew once. Afterwards an "
        "endpoint remembers 65,535 clients instead of the last 100. A Service with more clients than that loses the affinity of "
        "the oldest today; in nftables mode, that of the newest when a set is full.",
        "NFT-6.11, K-4.1, MODE-1",
        services_with_affinity,
    ),
    Remark(
        "Health check node ports need a hole in the node's firewall",
        "iptables mode accepts the health check node ports in INPUT. nftables mode writes no such rule, and could not: an accept "
        "ends only its own table. If the node's firewall refuses the port, load balancers take every node for unhealthy.",
        "MODE-1, PP-2",
        services_with_health_check,
    ),
    Remark(
        "A firewall that drops what is forwarded",
        "iptables mode accepts in FORWARD what it marked for masquerading and what belongs to known connections. nftables mode "
        "does not. No rules of the nodes were given, so this page cannot tell whether a policy of DROP in FORWARD or INPUT then "
        "closes something: give `iptables-save` and `nft list ruleset` of a node with --beside.",
        "NFT-9.4, MODE-1",
        unless_rules_are_known,
    ),
    Remark(
        "Packets that belong to no connection are no longer dropped",
        "iptables mode drops packets in state INVALID in FORWARD. nftables mode does not. Asymmetric routes start to work. Before "
        "Linux 6.1, a reply outside the TCP window reaches the client untranslated, and the client resets the connection. The "
        "counter `kubeproxy_iptables_ct_state_invalid_dropped_packets_total` says how often it happens today.",
        "NFT-9.4, MODE-1",
        unless_liberal,
    ),
    Remark(
        "Rules that somebody flushes stay away longer",
        "iptables mode notices within syncPeriod that its rules are gone. nftables mode notices only when its next transaction "
        "fails, or at its hourly full sync. `nft flush ruleset`, which many firewall reloads run, then stops new connections to all "
        "Services for up to an hour. Let reloads flush their own table only.",
        "NFT-8.7, MODE-1",
        whole_cluster,
    ),
    Remark(
        "Dashboards and alerts",
        "The metrics of iptables-restore and the numbers of rules end. "
        "`kubeproxy_sync_proxy_rules_nftables_sync_failures_total` takes the place of the failures.",
        "NFT-8.12",
        whole_cluster,
    ),
)

_QUESTIONS = (
    Question("uname -r", "5.13 or later; 6.1 or later is better.", "NFT-8.13"),
    Question(
        "nft --version",
        "The image brings its own nft, 1.0.1 or later. What an nft of 1.1.3 or later has written on the node can make the image's "
        "nft 1.0 crash; then every sync fails and Services grow stale.",
        "MODE-1",
    ),
    Question(
        "zgrep NFT_FIB_IPV /proc/config.gz",
        "y or m for IPV4 and IPV6. Kernels without it, such as trimmed ones, refuse every transaction.",
        "MODE-1",
    ),
    Question(
        "iptables -S INPUT; iptables -S FORWARD; nft list ruleset",
        "A policy of DROP, or a last rule that refuses the rest: see the programs below.",
        "MODE-1",
    ),
    Question(
        "curl -s 127.0.0.1:10249/metrics | grep kubeproxy_iptables_",
        "localhost_nodeports_accepted: who still dials node ports on 127.0.0.1. ct_state_invalid_dropped: how many packets the "
        "INVALID rule drops. Both should stand still.",
        "I-15, VER-1",
    ),
)

_PROGRAMS = {
    "Calico": (
        "Calico before 3.29 fails beside nftables mode; the Tigera operator has to be told the mode as well.",
        "MODE-1",
    ),
}

_CLOSED = {
    Hook.INPUT: (
        "Health check node ports were accepted before this rule, by kube-proxy. Now this firewall has to accept them.",
        "MODE-1",
    ),
    Hook.FORWARD: (
        "Masqueraded packets to Services and packets of known connections were accepted before this rule, by kube-proxy. Now this "
        "firewall has to accept them.",
        "NFT-9.4",
    ),
}

_ORDERS = (
    Order(
        frozenset({Hook.PREROUTING, Hook.OUTPUT}),
        -110,
        -100,
        "It sees Service addresses in both modes. What load balancer source ranges refuse is dropped before it now, at priority "
        "-110; in iptables mode it is dropped behind it.",
        "MODE-1",
    ),
    Order(
        frozenset({Hook.PREROUTING, Hook.OUTPUT, Hook.POSTROUTING}),
        -100,
        -99,
        "It stands where kube-proxy translates destinations. Of two chains with one priority, the one registered later goes first: "
        "kube-proxy registers its own when it starts.",
        "K-9.1",
    ),
    Order(
        frozenset({Hook.POSTROUTING}),
        100,
        101,
        "It stands where kube-proxy masquerades. Of two chains with one priority, the one registered later goes first, and the first "
        "NAT verdict ends NAT for the packet: kube-proxy registers its own when it starts.",
        "K-9.1",
    ),
    Order(
        frozenset({Hook.INPUT, Hook.FORWARD, Hook.OUTPUT}),
        0,
        1,
        "It stands where kube-proxy rejects and drops. An accept in one of the two tables does not overrule a drop in the other.",
        "K-9.1",
    ),
)

_ALL_ADDRESSES = ["0.0.0.0/0", "::/0"]


def _settings(situation: Situation) -> Iterator[Setting]:
    cluster = situation.cluster
    if has_node_ports(situation) and not cluster.config.node_port_addresses:
        yield Setting(
            "nodePortAddresses",
            _ALL_ADDRESSES,
            "Keeps node ports on every address of a node but 127.0.0.1, as today. Left out, nftables mode serves them on the node's "
            "primary addresses only; narrow it to primary in a second step, when nobody dials the others.",
            "NFT-1.8",
        )
    if unless_liberal(situation):
        yield Setting(
            "conntrack.tcpBeLiberal",
            True,
            "For nodes with Linux before 6.1, or of unknown version: replies outside the TCP window are translated all the same.",
            "MODE-1",
        )


CHANGE = Change(
    thresholds=_THRESHOLDS,
    remarks=_REMARKS,
    questions=_QUESTIONS,
    programs=_PROGRAMS,
    orders=_ORDERS,
    closed=_CLOSED,
    referred=(
        "nftables mode has no such chain. While a rule leads to it, kube-proxy's clean-up of the nat table fails as a whole, and the "
        "old chains stay, unused, until the node boots. Then the chain is missing, and the rule cannot be loaded.",
        "I-18, MODE-1",
    ),
    marked=(
        "nftables mode masquerades what carries this mark, too. It is no interface: it holds as long as nftables.masqueradeBit is "
        "the same, and it may change from release to release.",
        "NFT-5.5, NFT-12",
    ),
    settings=_settings,
    dropped={"localhostNodePorts": ("nftables mode never serves node ports on 127.0.0.1.", "NFT-5.7")},
    steps=(
        "Answer the questions about the nodes, and mend what this page says.",
        "Try one node, or one pool: clusters whose nodes run different modes are supported. Set the configuration below there and "
        "restart kube-proxy.",
        "Watch `kubeproxy_sync_proxy_rules_nftables_sync_failures_total`, and whether load balancers keep the node.",
        "Go on pool by pool. Drain a node first if it must not refuse new connections while it changes over.",
        "The way back is the old configuration: in iptables mode kube-proxy deletes its nftables tables when it starts. KUBE-FIREWALL "
        "and route_localnet of iptables mode stay until a node boots.",
    ),
)
