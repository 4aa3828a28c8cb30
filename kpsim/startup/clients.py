"""Settings that decide which packets are masqueraded, and which addresses accept node ports (CFG-2.3, CFG-8, I-9, I-10)."""

from collections.abc import Iterator

from kpsim.addresses import Family, parse_network
from kpsim.config import LocalDetector, LocalMode
from kpsim.manifests.proxy_config import FIELDS
from kpsim.startup.modes import SECTIONS, facts_of
from kpsim.startup.periods import not_of_the_mode
from kpsim.startup.remarks import Remark, Words, note, risk
from kpsim.startup.setting import Setting
from kpsim.startup.situation import Situation

# -------------------------------------------------------------------------------------------------------- masquerading


def _bit_does(s: Situation) -> str:
    return f"packets to masquerade carry the mark {1 << s.config.masquerade_bit:#x} on their way through the node"


def _bit_remarks(s: Situation) -> Iterator[Remark]:
    if s.config.masquerade_bit != 14:
        yield risk(
            f"another program that uses the bit {1 << s.config.masquerade_bit:#x} of marks makes packets masqueraded, or loses its own mark",
            "CFG-2.3",
        )


def _all_does(s: Situation) -> str:
    if s.config.masquerade_all:
        return "everything that is sent to a cluster IP leaves with an address of the node"
    return "to a cluster IP, only clients that are no local pods are masqueraded"


def _all_remarks(s: Situation) -> Iterator[Remark]:
    if s.config.masquerade_all:
        yield risk(
            "pods no longer see which pod calls them: logs, allow lists and network policies by source then see nodes",
            "PP-3.2",
        )
        yield risk("all clients of a node share its source ports: about 64,500 connections to one endpoint", "CT-6.6")


# ------------------------------------------------------------------------------------------------------------ node ports


def _loopback_does(s: Situation) -> str:
    if s.route_localnet:
        return "node ports answer on 127.0.0.1: net.ipv4.conf.all.route_localnet becomes 1, and KUBE-FIREWALL drops what others send to 127/8. ::1 never answers"
    return "node ports do not answer on 127.0.0.1, and route_localnet is left as it is"


def _loopback_remarks(s: Situation) -> Iterator[Remark]:
    if s.route_localnet:
        yield note(
            "packets to 127/8 can now be routed on all interfaces; nftables and ipvs mode have no such access",
            "CFG-6, MODE-1",
        )
    elif s.config.localhost_node_ports is False:
        yield risk("what uses localhost:nodePort, such as a registry on every node, gets no answer", "MODE-1")


def _loopback_moot(s: Situation) -> str:
    if not s.config.localhost_node_ports or s.route_localnet:
        return ""
    if Family.IPV4 not in s.families:
        return "the machine has no IPv4, and ::1 never answers"
    return "nodePortAddresses cover no loopback address"


def _ports_does(s: Situation) -> str:
    if not s.config.node_port_addresses:
        return f"node ports answer on {facts_of(s).node_ports_by_default}{_where_primary(s)}"
    return (
        f"node ports answer on {_addresses(s)}; health check node ports listen on those that the node has at the start"
    )


def _where_primary(s: Situation) -> str:
    found = _addresses(s)
    return "" if all(settings.node_ports.match_all for settings in s.settings.values()) else f": {found}"


def _addresses(s: Situation) -> str:
    parts = []
    for family, settings in s.settings.items():
        networks = ", ".join(map(str, settings.node_ports.networks))
        parts.append(f"{family.label} {'all addresses' if settings.node_ports.match_all else networks}")
    return "; ".join(parts)


def _ports_remarks(s: Situation) -> Iterator[Remark]:
    given = s.config.node_port_addresses
    opened = [family.label for family, settings in s.settings.items() if settings.node_ports.match_all]
    if given and given != ("primary",) and opened and len(opened) < len(s.settings):
        yield risk(f"no CIDR of {opened[0]}: all its addresses accept node ports", "CFG-2.3.2")
    primary = given == ("primary",) or (not given and facts_of(s).primary_by_default)
    if primary and not s.node_ips:
        yield note(
            "no Node object tells the addresses here; if kube-proxy finds none within 30 s, all addresses accept node ports",
            "CFG-2.3.2",
        )
    if not given and not primary:
        yield note(
            "kube-proxy logs that all local IPs accept node ports; `primary` restricts them to the node's own",
            "CFG-7.4",
        )
    elif primary:
        yield note("a second interface or address of the node does not answer node ports", "MODE-1")


# ---------------------------------------------------------------------------------------------------------- detect local


def detectors(s: Situation) -> dict[Family, LocalDetector | None]:
    """How each family's proxier recognises local pods; None: it cannot."""
    return {family: settings.detector for family, settings in s.settings.items()}


def _recognised(s: Situation) -> str:
    parts = []
    for family, detector in detectors(s).items():
        if detector is not None:
            by = (
                f"source in {detector.cidr}"
                if detector.cidr
                else f"input interface {detector.interface.replace('+', '…')}"
            )
            parts.append(f"{family.label} by {by}")
    return "; ".join(dict.fromkeys(parts))


_SCOPE = {
    LocalMode.CLUSTER_CIDR: "pods of the whole cluster count as local",
    LocalMode.NODE_CIDR: "pods of this node count as local; the pod CIDR is read at the start, and kube-proxy ends when it changes",
    LocalMode.BRIDGE_INTERFACE: "pods of this node count as local; what the node itself sends has no input interface and does not",
    LocalMode.INTERFACE_NAME_PREFIX: "pods of this node count as local; what the node itself sends has no input interface and does not",
}


def _detect_does(s: Situation) -> str:
    found = _recognised(s)
    if not found:
        return "no family can tell traffic of local pods from other traffic"
    short_circuit = (
        "; with externalTrafficPolicy Local they get all endpoints, in place of those of this node"
        if facts_of(s).short_circuits
        else ""
    )
    return (
        f"recognises local pods: {found}; {_SCOPE[s.config.detect_local_mode]}. They keep their address{short_circuit}"
    )


def _detect_remarks(s: Situation) -> Iterator[Remark]:
    missing = [family.label for family, detector in detectors(s).items() if detector is None]
    if missing and len(missing) == len(s.settings):
        yield risk(_first_upper(facts_of(s).without_detector), "CFG-8.1, PP-3.2, PP-5.2")
    elif missing:
        yield note(
            f"{missing[0]} has no CIDR here: its pods' traffic is not told from other traffic, if there is any",
            "CFG-8.1",
        )
    if _recognised(s) and facts_of(s).short_circuits and s.config.detect_local_mode is LocalMode.CLUSTER_CIDR:
        yield note(
            "a pod of another node that dials a node port here with the Local policy is taken for local, and fails if its endpoint is elsewhere",
            "PP-5.5",
        )


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cidr_does(s: Situation) -> str:
    if not s.config.cluster_cidr:
        return "no CIDR of pods is known"
    return f"pods have addresses in {s.config.cluster_cidr.replace(',', ' and ')}"


def _cidr_remarks(s: Situation) -> Iterator[Remark]:
    given = [network for text in s.config.cluster_cidr.split(",") if (network := parse_network(text.strip()))]
    without = [family.label for family in s.families if all(network.family is not family for network in given)]
    if given and without and s.given.family is None:
        yield note(
            f"no CIDR of {' or '.join(without)}: a dual-stack cluster gives a pair, such as 10.0.0.0/16,fd00::/48",
            "CFG-8.1",
        )


def _only_with(mode: LocalMode) -> Words:
    def unread(s: Situation) -> str:
        return "" if s.config.detect_local_mode is mode else f"detectLocalMode is {s.config.detect_local_mode}"

    return unread


def _interface_does(s: Situation) -> str:
    return _recognised(s) or "names no interface"


ROWS = (
    *(
        Setting(f"{section}.{name}", does, see, remarks, unread=not_of_the_mode(f"{section}.{name}"))
        for section in SECTIONS
        for name, does, see, remarks in (
            ("masqueradeBit", _bit_does, "CFG-2.3", _bit_remarks),
            ("masqueradeAll", _all_does, "PP-3.2", _all_remarks),
        )
        if name in FIELDS[section]  # type: ignore[operator]  # a section is a mapping
    ),
    Setting(
        "iptables.localhostNodePorts", _loopback_does, "CFG-6, PP-7.1", _loopback_remarks, unread=not_of_the_mode("iptables.localhostNodePorts"),
        moot=_loopback_moot,
    ),
    Setting("nodePortAddresses", _ports_does, "CFG-2.3.2, PP-7.1", _ports_remarks),
    Setting("detectLocalMode", _detect_does, "CFG-8", _detect_remarks, in_force=lambda s: str(s.config.detect_local_mode)),
    Setting("clusterCIDR", _cidr_does, "CFG-8", _cidr_remarks, unread=_only_with(LocalMode.CLUSTER_CIDR)),
    Setting(
        "detectLocal.bridgeInterface", _interface_does, "CFG-8", unread=_only_with(LocalMode.BRIDGE_INTERFACE)
    ),
    Setting(
        "detectLocal.interfaceNamePrefix", _interface_does, "CFG-8", unread=_only_with(LocalMode.INTERFACE_NAME_PREFIX)
    ),
)  # fmt: skip
