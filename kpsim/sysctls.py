"""The kernel settings of a node that decide what becomes of a packet, and their names. Counterpart: /proc/sys/net.

kube-proxy changes some of them when it starts (route_localnet and those of conntrack): see ``nodes.sysctls_of``.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from kpsim.addresses import Family
from kpsim.errors import InputError, Problem
from kpsim.units import SECOND_NS
from kpsim.valueclass import dataclass


@dataclass(frozen=True, slots=True)
class Sysctls:
    """One node's settings. The defaults are the kernel's own (K-6.2, CT-4.1, CT-5), not kube-proxy's."""

    route_localnet: bool = False  #: 127/8 may be routed (K-7.1)
    accept_local: bool = False  #: a source that is one of the node's own addresses may arrive from outside (K-7.3)
    rp_filter: int = 0  #: max(all, device): 0 off, 1 strict, 2 loose (K-7.3)
    src_valid_mark: bool = False  #: rp_filter asks for the way back with the packet's mark (K-7.9)
    bridge_nf_call_iptables: bool = True  #: packets that a bridge switches pass netfilter too (K-2.6)
    bridge_nf_call_ip6tables: bool = True  #: the same for IPv6
    tcp_be_liberal: bool = False
    tcp_loose: bool = True
    nf_conntrack_max: int = 262_144  #: 0: no limit
    nf_conntrack_buckets: int = 262_144  #: size of the table's hash: early drop depends on it (CT-7.2)
    conntrack_checksum: bool = True  #: packets that come in with a wrong checksum are INVALID
    tcp_max_retrans: int = 3  #: repeats of a segment that shorten the timer to ``tcp_timeout_max_retrans_ns`` (CT-4.1)
    tcp_timeout_syn_sent_ns: int = 120 * SECOND_NS
    tcp_timeout_syn_recv_ns: int = 60 * SECOND_NS
    tcp_timeout_established_ns: int = 432_000 * SECOND_NS
    tcp_timeout_fin_wait_ns: int = 120 * SECOND_NS
    tcp_timeout_close_wait_ns: int = 60 * SECOND_NS
    tcp_timeout_last_ack_ns: int = 30 * SECOND_NS
    tcp_timeout_time_wait_ns: int = 120 * SECOND_NS
    tcp_timeout_close_ns: int = 10 * SECOND_NS
    tcp_timeout_unacknowledged_ns: int = 300 * SECOND_NS
    tcp_timeout_max_retrans_ns: int = 300 * SECOND_NS
    udp_timeout_ns: int = 30 * SECOND_NS
    udp_timeout_stream_ns: int = 120 * SECOND_NS
    icmp_timeout_ns: int = 30 * SECOND_NS
    icmpv6_timeout_ns: int = 30 * SECOND_NS
    gre_timeout_ns: int = 30 * SECOND_NS
    gre_timeout_stream_ns: int = 180 * SECOND_NS
    generic_timeout_ns: int = 600 * SECOND_NS
    sctp_timeout_closed_ns: int = 10 * SECOND_NS
    sctp_timeout_cookie_wait_ns: int = 3 * SECOND_NS
    sctp_timeout_cookie_echoed_ns: int = 3 * SECOND_NS
    sctp_timeout_established_ns: int = 210 * SECOND_NS
    sctp_timeout_shutdown_sent_ns: int = 3 * SECOND_NS
    sctp_timeout_shutdown_recd_ns: int = 3 * SECOND_NS
    sctp_timeout_shutdown_ack_sent_ns: int = 3 * SECOND_NS
    sctp_timeout_heartbeat_sent_ns: int = 30 * SECOND_NS
    vs_conntrack: bool = False  #: connection tracking follows the connections of ip_vs (IPVS-10.6)
    vs_conn_reuse_mode: int = 1  #: whether a SYN may begin a new connection where one is closing (IPVS-11.6)
    vs_expire_nodest_conn: bool = False  #: connections end with their real server (IPVS-13.2)
    vs_expire_quiescent_template: bool = False  #: a server of weight 0 loses its persistent clients (IPVS-11.4)

    def bridges_call_netfilter(self, family: Family) -> bool:
        """Whether packets of this family pass netfilter when a bridge switches them (K-2.6)."""
        return self.bridge_nf_call_iptables if family is Family.IPV4 else self.bridge_nf_call_ip6tables

    def written(self, values: Mapping[str, int]) -> "Sysctls":
        """These settings after ``sysctl -w NAME=VALUE …``, in the kernel's units. InputError as :func:`complaint`."""
        problems = [Problem(words) for name, value in values.items() if (words := complaint(name, value))]
        if problems:
            raise InputError(problems)
        changes: dict[str, Any] = {
            SETTINGS[name].field: SETTINGS[name].meant_by(value) for name, value in values.items()
        }
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of :class:`Sysctls` by its name in /proc/sys, where values are whole numbers."""

    name: str
    field: str
    unit_ns: int = 0  #: the unit of the kernel's number, if it is a time
    least: int = 0
    most: int = 1  #: 1: the setting is a switch
    of_machine: bool = False  #: one setting for all network namespaces: only the first namespace can change it
    module: str = ""  #: the kernel module that has it; empty: every kernel has it

    @property
    def default(self) -> int:
        """The kernel's own value, in the kernel's unit."""
        return self.of(Sysctls())

    @property
    def is_switch(self) -> bool:
        return self.most == 1

    def of(self, sysctls: Sysctls) -> int:
        """The setting's value as the number that the kernel shows."""
        value = int(getattr(sysctls, self.field))
        return value // self.unit_ns if self.unit_ns else value

    def meant_by(self, value: int) -> int | bool:
        """The field's value for the kernel's number."""
        return bool(value) if self.is_switch else value * (self.unit_ns or 1)


_CONNTRACK, _IP_VS = "net.netfilter.nf_conntrack_", "net.ipv4.vs."
_LONGEST_S = (2**31 - 1) // 1000  #: the longest time that a kernel takes which counts in milliseconds


def _settings() -> Iterator[Setting]:
    yield Setting("net.ipv4.conf.all.route_localnet", "route_localnet")
    yield Setting("net.ipv4.conf.all.accept_local", "accept_local")
    yield Setting("net.ipv4.conf.all.rp_filter", "rp_filter", most=2)
    yield Setting("net.ipv4.conf.all.src_valid_mark", "src_valid_mark")
    yield Setting("net.bridge.bridge-nf-call-iptables", "bridge_nf_call_iptables")
    yield Setting("net.bridge.bridge-nf-call-ip6tables", "bridge_nf_call_ip6tables")
    yield Setting(f"{_CONNTRACK}max", "nf_conntrack_max", most=2**31 - 1, of_machine=True)
    yield Setting(f"{_CONNTRACK}buckets", "nf_conntrack_buckets", least=1, most=2**31 - 1, of_machine=True)
    yield Setting(f"{_CONNTRACK}checksum", "conntrack_checksum")
    yield Setting(f"{_CONNTRACK}tcp_be_liberal", "tcp_be_liberal")
    yield Setting(f"{_CONNTRACK}tcp_loose", "tcp_loose")
    yield Setting(f"{_CONNTRACK}tcp_max_retrans", "tcp_max_retrans", most=255)
    yield Setting(f"{_IP_VS}conntrack", "vs_conntrack", module="ip_vs")
    yield Setting(f"{_IP_VS}conn_reuse_mode", "vs_conn_reuse_mode", most=3, module="ip_vs")
    yield Setting(f"{_IP_VS}expire_nodest_conn", "vs_expire_nodest_conn", module="ip_vs")
    yield Setting(f"{_IP_VS}expire_quiescent_template", "vs_expire_quiescent_template", module="ip_vs")
    for timer in (field.name for field in fields(Sysctls) if field.name.endswith("_ns")):
        yield Setting(_CONNTRACK + timer.removesuffix("_ns"), timer, SECOND_NS, most=_LONGEST_S)


#: all settings that are modelled, by name
SETTINGS: Mapping[str, Setting] = {setting.name: setting for setting in _settings()}


def complaint(name: str, value: int) -> str:
    """Why a value cannot be written: an unknown name, with the nearest known name, or a number out of range.

    Empty if it can be written.
    """
    setting = SETTINGS.get(name)
    if setting is None:
        last = {known.rpartition(".")[2]: known for known in SETTINGS}
        near = get_close_matches(name, SETTINGS, n=1, cutoff=0.8) or [
            last[word] for word in get_close_matches(name.rpartition(".")[2], last, n=1)
        ]
        return f"no kernel setting {name!r} is modelled" + (f"; did you mean {near[0]!r}?" if near else "")
    if setting.least <= value <= setting.most:
        return ""
    unit = " seconds" if setting.unit_ns else ""
    return f"{name}: expected a number from {setting.least} to {setting.most}{unit}, got {value}"


def assignments(texts: Iterable[str]) -> dict[str, int]:
    """Reads ``NAME=VALUE`` as ``sysctl -w`` does. InputError for a text of another form.

    Whether the values can be written is not checked: see :func:`complaint`.
    """
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = int(value)
        except ValueError:
            raise InputError(f"{text!r}: expected NAME=VALUE, the value a whole number") from None
    return found
