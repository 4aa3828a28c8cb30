"""The events of a scenario file that break something: rules, tools, processes, connection tables, networks, clocks."""

import enum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from kpsim.scenario.node_schema import Name, Positive
from kpsim.scenario.quantities import DurationNs, Part, exactly_one
from kpsim.scenario.service_names import ServiceName
from kpsim.units import HOUR_NS, MILLISECOND_NS, SECOND_NS

_Lasting = Annotated[DurationNs, Field(alias="for", ge=MILLISECOND_NS)]
_LastingAtMost = Annotated[DurationNs | None, Field(alias="for")]


def _at_most_a_year(value: int) -> int:
    if value > 8784 * HOUR_NS:
        raise ValueError("expected at most 8784h, a year")
    return value


_Skew = Annotated[DurationNs, AfterValidator(_at_most_a_year)]


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


#: a node that is named twice is hit once
_Nodes = Annotated[tuple[Name, ...], AfterValidator(_once)]

#: what iptables knows (K-1.1)
IPTABLES_TABLES = ("raw", "mangle", "nat", "filter", "security")


class FlushTool(enum.StrEnum):
    """Whose command removes what a kernel holds.

    ``iptables``: ``iptables -F`` and ``-X``, and those of ip6tables. ``nft``: ``nft flush ruleset``; with ``tables``,
    ``nft delete table``. ``ipvsadm``: ``ipvsadm -C``. ``ipset``: ``ipset flush``, as sets that rules name cannot be destroyed.
    """

    IPTABLES = "iptables"
    NFT = "nft"
    IPVSADM = "ipvsadm"
    IPSET = "ipset"


class FlushRules(Part):
    """Somebody removes rules on nodes. kube-proxy is not told (CP-13); of a sync that is under way the rules were loaded before."""

    nodes: _Nodes = ()
    """Default: all."""
    tool: FlushTool
    tables: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*$", max_length=128)], ...] = ()
    """Default: all of the tool. Those of nft are deleted in every family that has one of the name."""
    keep_chains: bool = False
    """Only rules go, and chains stay: ``iptables -F`` without ``-X``, ``nft flush table``."""

    @model_validator(mode="after")
    def _possible(self) -> "FlushRules":
        if self.tool in (FlushTool.IPVSADM, FlushTool.IPSET):
            if self.tables or self.keep_chains:
                raise ValueError(
                    f"{self.tool} knows no tables and chains: tables and keepChains go with iptables and nft"
                )
        elif self.tool is FlushTool.NFT:
            if self.keep_chains and not self.tables:
                raise ValueError("nft flush ruleset keeps no chain: keepChains goes with tables")
        elif unknown := [name for name in self.tables if name not in IPTABLES_TABLES]:
            raise ValueError(f"iptables has no table {unknown[0]!r}; it has {', '.join(IPTABLES_TABLES)}")
        return self


class HoldLock(Part):
    """Another program holds the xtables lock. Tools of kube-proxy wait 5 s for it, then fail (CP-13, I-3.2, I-4.4).

    Only iptables-legacy has the lock: iptables-nft and nft wait for nobody.
    """

    nodes: _Nodes = ()
    """Default: all."""
    lasting_ns: _Lasting


class CrashProxy(Part):
    """kube-proxy exits, and its kubelet starts it again: at once, then after 10 s, 20 s, 40 s … 5 min.

    A process that lived for more than 10 min is started again at once. Rules stay in force meanwhile (CP-12.1).
    """

    nodes: _Nodes = ()
    """Default: all."""
    count: Positive = 1
    """How often it exits."""
    runs_ns: DurationNs = SECOND_NS
    """How long each process lives that exits again."""


class WriteProxyConfig(Part):
    """The file with kube-proxy's configuration is written or renamed: kube-proxy exits, and is started again (CFG-1.4)."""

    nodes: _Nodes = ()
    """Default: all."""


class SetConntrackMax(Part):
    """Somebody writes nf_conntrack_max. kube-proxy writes its own value at its next start (CFG-4.1)."""

    nodes: _Nodes = ()
    """Default: all."""
    max: Annotated[int, Field(ge=1, le=2**31 - 1)]
    lasting_ns: _LastingAtMost = None
    """Then the value of before is written; default: it stays."""


class FillConntrack(Part):
    """Connections of others take up nodes' connection tables (CT-7)."""

    nodes: _Nodes = ()
    """Default: all."""
    entries: Annotated[int | None, Field(ge=1, le=2**21)] = None
    """Default: as many as there is room for."""
    unreplied: bool = False
    """They have seen no reply, as in a flood of SYNs: a full table drops such entries to make room (CT-7.2). Else they are established, and
    yield to nobody."""
    lasting_ns: _Lasting = HOUR_NS
    """When they expire."""


class SlowLoadBalancer(Part):
    """Load balancers are late: their probers, their programming of what they decided, or both."""

    services: tuple[ServiceName, ...] = ()
    """Those of these Services; default: all."""
    probes_ns: DurationNs = 0
    """How much later than its interval says each probe is sent."""
    programming_ns: DurationNs = 0
    """From a decision about a node, by probes or by the set of nodes, until connections go by it."""
    lasting_ns: _Lasting

    @model_validator(mode="after")
    def _slow(self) -> "SlowLoadBalancer":
        if not self.probes_ns and not self.programming_ns:
            raise ValueError("expected probes or programming above 0")
        return self


class LosePackets(Part):
    """The links of nodes lose packets, in both directions. TCP repeats a lost SYN after 1 s, 3 s, 7 s … while its client waits.

    Open connections repeat what is lost and go on. A datagram is sent once.
    """

    nodes: Annotated[_Nodes, Field(min_length=1)]
    peers: Literal["all", "outside", "nodes"] = "all"
    """With whom packets are lost: with the outside and load balancers, with other nodes, or with both."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Of the packets that cross the link, each way."""
    lasting_ns: _Lasting


class ClockSkew(Part):
    """The clocks of nodes are wrong against those of the masters. Exactly one of ``ahead`` and ``behind``; 0 sets them right.

    kubelets stamp conditions of pods by them, and kube-proxies measure latencies by them (CP-2.6, CP-11.2). Timers do not change.
    """

    nodes: _Nodes = ()
    """Default: all."""
    ahead_ns: _Skew | None = None
    behind_ns: _Skew | None = None
    lasting_ns: _LastingAtMost = None
    """Then they are right; default: until another event."""

    @model_validator(mode="after")
    def _one_way(self) -> "ClockSkew":
        exactly_one(self, ("ahead_ns", "behind_ns"))
        return self

    @property
    def skew_ns(self) -> int:
        return self.ahead_ns if self.ahead_ns is not None else -(self.behind_ns or 0)
