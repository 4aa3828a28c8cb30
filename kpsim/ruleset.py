"""The one rule model: frozen values that packets run on and that every dialect parses and renders.

Counterpart: the kernel's xt_entry/nft_expr, not kube-proxy's strings. A rule's body is evaluated left to right and stops at
the first match that fails; an iptables rule is the special case [matches…, at most one statement] (I-7 R18 has none).
This module never knows how a match is evaluated (``matching``) nor how it is spelled (``dialects``).
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from immutables import Map

from kpsim.addresses import Family, Network


class Role(enum.StrEnum):
    """Why kube-proxy wrote a rule. FOREIGN: somebody else's, or read from a dump and not recognised."""

    FOREIGN = "foreign"
    JUMP = "jump from a built-in chain"
    LOCALNET_FIREWALL = "localnet firewall"
    INVALID_DROP = "drop of INVALID packets"
    FORWARD_ACCEPT = "forwarding of masqueraded packets"
    FORWARD_CONNTRACK = "forwarding of known connections"
    POSTROUTING = "masquerading"
    MARK_MASQ = "masquerade mark"
    CLUSTER_IP = "cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER = "load balancer IP"
    NODE_PORT = "node port"
    NODE_PORTS = "node port dispatch"
    HEALTH_CHECK = "health check node port"
    NO_ENDPOINTS = "no endpoints"
    NO_LOCAL_ENDPOINTS = "no local endpoints"
    SOURCE_RANGE = "source range"
    SOURCE_RANGE_DROP = "source ranges: the rest"
    MASQUERADE_CLUSTER_IP = "masquerade for the cluster IP"
    MASQUERADE_EXTERNAL = "masquerade of external traffic"
    SHORT_CIRCUIT_POD = "pod traffic to an external address"
    SHORT_CIRCUIT_LOCAL = "node traffic to an external address"
    EXTERNAL_POLICY = "external traffic policy"
    AFFINITY = "session affinity"
    BALANCE = "load balancing"
    HAIRPIN = "hairpin masquerade"
    ENDPOINT = "endpoint"


class Origin(NamedTuple):
    """Why a rule exists. Traces print it and random draws are keyed by it, never by the rule's index."""

    role: Role
    service: str = ""  #: ``namespace/name:port`` (O-5.2), empty for static rules
    protocol: str = ""  #: ``TCP``, ``UDP``, ``SCTP``
    endpoint: str = ""  #: ``ip:port``


FOREIGN = Origin(Role.FOREIGN)


# --- matches: each is a condition on the packet; ``negate`` is iptables' "!" -------------------------------------------


@dataclass(frozen=True, slots=True)
class Comment:
    """Always true."""

    text: str


@dataclass(frozen=True, slots=True)
class Source:
    network: Network
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Destination:
    network: Network
    negate: bool = False


@dataclass(frozen=True, slots=True)
class InInterface:
    """Input interface; a trailing ``+`` matches any suffix. A packet made on this node has none (CFG-8.2)."""

    name: str
    negate: bool = False


@dataclass(frozen=True, slots=True)
class OutInterface:
    name: str
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Protocol:
    """``-p``: lower-case protocol name."""

    name: str
    negate: bool = False


@dataclass(frozen=True, slots=True)
class L4Module:
    """``-m tcp`` / ``udp`` / ``sctp``: opens the port options that follow; by itself true for packets of the protocol."""

    protocol: str


@dataclass(frozen=True, slots=True)
class SourcePort:
    low: int
    high: int
    negate: bool = False


@dataclass(frozen=True, slots=True)
class DestinationPort:
    low: int
    high: int
    negate: bool = False


@dataclass(frozen=True, slots=True)
class TcpFlags:
    """``--tcp-flags mask set`` (and ``--syn``)."""

    mask: frozenset[str]
    value: frozenset[str]
    negate: bool = False


@dataclass(frozen=True, slots=True)
class MultiPort:
    """``-m multiport``: ``side`` is ``sports``, ``dports`` or ``ports``; ranges are inclusive."""

    side: str
    ranges: tuple[tuple[int, int], ...]
    negate: bool = False


@dataclass(frozen=True, slots=True)
class IcmpType:
    """``-m icmp|icmp6 --icmp-type``; ``code`` None: any."""

    module: str
    type: int
    code: int | None
    negate: bool = False


@dataclass(frozen=True, slots=True)
class CtState:
    """conntrack state: NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED and the virtual SNAT, DNAT (CT-3.3), as written."""

    states: tuple[str, ...]
    negate: bool = False
    module: str = "conntrack"  #: or the older ``state``
    joined: bool = False  #: in one ``-m`` with a match before it; so it is called below, too


@dataclass(frozen=True, slots=True)
class CtOriginalDestination:
    """Where the connection's first packet went before DNAT: ``--ctorigdst``."""

    network: Network
    negate: bool = False
    joined: bool = False


@dataclass(frozen=True, slots=True)
class CtOriginalPort:
    """The port that the connection's first packet went to before DNAT: ``--ctorigdstport``."""

    low: int
    high: int
    negate: bool = False
    joined: bool = False


@dataclass(frozen=True, slots=True)
class CtDirection:
    """``ORIGINAL`` or ``REPLY``: the packet's direction within its connection."""

    direction: str
    joined: bool = False


@dataclass(frozen=True, slots=True)
class ConnMark:
    """The mark of the packet's connection."""

    value: int
    mask: int = 0xFFFFFFFF
    negate: bool = False


@dataclass(frozen=True, slots=True)
class MarkMatch:
    value: int
    mask: int = 0xFFFFFFFF
    negate: bool = False


@dataclass(frozen=True, slots=True)
class AddrType:
    """Address type by the local routing table (K-7.4); ``side`` is ``src`` or ``dst``, ``type`` one type or some with commas."""

    side: str
    type: str
    negate: bool = False
    joined: bool = False


@dataclass(frozen=True, slots=True)
class AddressRange:
    """``-m iprange``: first and last address; ``side`` is ``src`` or ``dst``."""

    side: str
    low: int
    high: int
    negate: bool = False
    joined: bool = False


@dataclass(frozen=True, slots=True)
class Recent:
    """``-m recent`` on the source address (K-4); ``action`` is ``set``, ``rcheck``, ``update`` or ``remove``."""

    name: str
    action: str
    seconds: int | None = None
    reap: bool = False
    hitcount: int | None = None
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """``-m limit``: true while the rule's bucket has a token. ``count`` tokens a ``unit`` flow in, up to ``burst``."""

    count: int
    unit: str  #: ``sec``, ``min``, ``hour``, ``day``
    burst: int = 5


@dataclass(frozen=True, slots=True)
class TimeToLive:
    """``-m ttl`` or ``-m hl``: ``option`` is ``ttl-eq``, ``hl-lt``, …"""

    option: str
    value: int
    negate: bool = False


@dataclass(frozen=True, slots=True)
class ReversePath:
    """``-m rpfilter``: an answer would leave by the interface that the packet came by, or, if ``loose``, by any.

    ``valid_mark`` makes the look-up regard the packet's mark, on which no route here depends.
    """

    loose: bool = False
    valid_mark: bool = False
    accept_local: bool = False
    invert: bool = False


@dataclass(frozen=True, slots=True)
class RoutingHeader:
    """``-m rt``: of IPv6 packets with a routing header, and no packet here has one; ``arguments`` as written."""

    arguments: str


@dataclass(frozen=True, slots=True)
class Statistic:
    """``--mode random``: true if 31 random bits are below ``threshold`` = round(p·2³¹) (K-5)."""

    threshold: int
    text: str  #: the probability as written


@dataclass(frozen=True, slots=True)
class NfAcct:
    """Counts the packet and is true."""

    name: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Words of a foreign rule that are not modelled, kept on request: nobody can say whether they match or what they do."""

    text: str


Match = (
    Comment | Source | Destination | InInterface | OutInterface | Protocol | L4Module | SourcePort | DestinationPort
    | TcpFlags | MultiPort | IcmpType | CtState | CtOriginalDestination | CtOriginalPort | CtDirection | ConnMark
    | MarkMatch | AddrType | AddressRange | TimeToLive | ReversePath | RoutingHeader | Recent | Limit | Statistic | NfAcct | Unknown
)  # fmt: skip

#: matches of one option of a module that has others: several may stand in one ``-m``
Joining = CtState | CtOriginalDestination | CtOriginalPort | CtDirection | AddrType | AddressRange


# --- statements: what a rule does --------------------------------------------------------------------------------------


class Verdict(enum.StrEnum):
    """What a hook says. ACCEPT means "go on to the next hook entry"; RETURN in a base chain applies its policy."""

    ACCEPT = "ACCEPT"
    DROP = "DROP"
    RETURN = "RETURN"


@dataclass(frozen=True, slots=True)
class Terminal:
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Jump:
    chain: str


@dataclass(frozen=True, slots=True)
class Goto:
    chain: str


@dataclass(frozen=True, slots=True)
class Reject:
    """``with_`` by its full name; None: as written without ``--reject-with``, see ``PORT_UNREACHABLE``."""

    with_: str | None = None


#: what REJECT answers unless told otherwise
PORT_UNREACHABLE: Mapping[Family, str] = {Family.IPV4: "icmp-port-unreachable", Family.IPV6: "icmp6-port-unreachable"}


@dataclass(frozen=True, slots=True)
class Dnat:
    """Destination NAT to one address, or None to keep it, and a port, or None to keep it."""

    family: Family
    address: int | None
    port: int | None
    random: bool = False
    persistent: bool = False


@dataclass(frozen=True, slots=True)
class Snat:
    """Source NAT to one address; ``port_low``/``port_high`` bound the new port, None: same class (K-2.3)."""

    family: Family
    address: int
    port_low: int | None = None
    port_high: int | None = None
    random: bool = False
    random_fully: bool = False


@dataclass(frozen=True, slots=True)
class Masquerade:
    """Source NAT to the outgoing interface's address (K-2.2)."""

    random: bool = False
    random_fully: bool = False
    port_low: int | None = None
    port_high: int | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """Destination NAT to the machine itself; ``port`` None: kept."""

    port: int | None = None


@dataclass(frozen=True, slots=True)
class SetMark:
    """mark := (mark AND NOT ``mask``) XOR ``value``. ``spelling`` is the option it was written with (I-17)."""

    value: int
    mask: int
    spelling: str = "set-xmark"  #: ``or-mark``, ``xor-mark``, ``and-mark``, ``set-mark``, ``set-xmark``


@dataclass(frozen=True, slots=True)
class NoTrack:
    """The packet is kept out of conntrack (``-j CT --notrack``, or ``-j NOTRACK``)."""

    target: str = "CT"


@dataclass(frozen=True, slots=True)
class Log:
    """No effect on the packet; ``arguments`` as written. ``target`` is ``LOG``, ``NFLOG`` or ``TRACE``."""

    arguments: str = ""
    target: str = "LOG"


@dataclass(frozen=True, slots=True)
class SetConnMark:
    """``-j CONNMARK`` on the packet's connection; without one nothing happens.

    ``set``: the connection's mark := (mark AND NOT ``mask``) XOR ``value``. ``save``: … XOR (packet's mark AND ``value``).
    ``restore``: the packet's mark := (mark AND NOT ``value``) XOR (connection's mark AND ``mask``).
    """

    action: str
    value: int  #: of ``save`` and ``restore`` the bits of the packet's mark (``--nfmask``)
    mask: int  #: the bits of the connection's mark (``--ctmask``)


@dataclass(frozen=True, slots=True)
class SetTimeToLive:
    """``-j TTL`` or ``-j HL``; ``action`` is ``set``, ``inc`` or ``dec``. Decides whether the packet is forwarded any further."""

    target: str
    action: str
    value: int


@dataclass(frozen=True, slots=True)
class Adjust:
    """A change that neither rules nor routes here look at, so that it decides no packet's fate; ``arguments`` as written.

    ``target``: ``TCPMSS``, ``DSCP``, ``TOS``, ``CLASSIFY``, ``CHECKSUM``.
    """

    target: str
    arguments: str = ""


Statement = (
    Terminal | Jump | Goto | Reject | Dnat | Snat | Masquerade | Redirect | SetMark | SetConnMark | SetTimeToLive | NoTrack
    | Log | Adjust
)  # fmt: skip

ACCEPT = Terminal(Verdict.ACCEPT)
DROP = Terminal(Verdict.DROP)
RETURN = Terminal(Verdict.RETURN)

STATEMENTS: tuple[type, ...] = (
    Terminal, Jump, Goto, Reject, Dnat, Snat, Masquerade, Redirect, SetMark, SetConnMark, SetTimeToLive, NoTrack, Log, Adjust,
)  # fmt: skip


def moves_nothing(body: tuple[Match | Statement, ...]) -> bool:
    """Whether it decides nothing if a rule of this body matches: it only logs or adjusts, and nothing remembers it."""
    idle = bool(body) and isinstance(body[-1], Log | Adjust)
    return idle and not any(isinstance(part, Recent | NfAcct) for part in body)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: ``body`` in the order it was written in. Equality ignores why the rule exists."""

    body: tuple[Match | Statement, ...]
    origin: Origin = field(default=FOREIGN, compare=False)

    @property
    def comment(self) -> str:
        """Text of the first comment, or empty."""
        return next((part.text for part in self.body if isinstance(part, Comment)), "")

    @property
    def target(self) -> Statement | None:
        """The statement at the end, or None."""
        last = self.body[-1] if self.body else None
        return last if isinstance(last, STATEMENTS) else None  # type: ignore[return-value]


class Chain:
    """A named list of rules: immutable. ``policy`` is set for base (built-in) chains only."""

    def __init__(self, name: str, rules: tuple[Rule, ...] = (), policy: Verdict | None = None) -> None:
        self.name = name
        self.policy = policy
        self._rules = rules
        self.compiled: Any = None  #: where whoever runs the chain keeps it ready; no part of its value

    @property
    def rules(self) -> tuple[Rule, ...]:
        return self._rules

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chain):
            return NotImplemented
        return self is other or (self.name, self.policy, self.rules) == (other.name, other.policy, other.rules)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Chain({self.name!r}, policy={self.policy})"


#: hooks of each iptables table with its built-in chains, in the order iptables-save lists them
BUILT_IN_CHAINS: Mapping[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of one family: chains by name, persistent, so that keeping an old version costs nothing."""

    name: str
    chains: Map[str, Chain] = Map()  # noqa: RUF009 - immutable

    def __getitem__(self, chain: str) -> Chain:
        return self.chains[chain]

    def ordered(self) -> Iterator[Chain]:
        """Built-in chains in hook order, then the others by name (I-17)."""
        built_in = BUILT_IN_CHAINS.get(self.name, ())
        for name in built_in:
            if name in self.chains:
                yield self.chains[name]
        for name in sorted(self.chains):
            if name not in built_in:
                yield self.chains[name]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Everything one family's rules are on a node at one moment."""

    family: Family
    tables: Map[str, Table] = Map()  # noqa: RUF009 - immutable

    def chain(self, table: str, chain: str) -> Chain:
        """KeyError if there is none."""
        return self.tables[table].chains[chain]

    def has(self, role: Role) -> bool:
        """Whether some rule exists for this reason."""
        return any(
            rule.origin.role is role
            for table in self.tables.values()
            for chain in table.chains.values()
            for rule in chain.rules
        )


def united(first: Ruleset, second: Ruleset) -> Ruleset:
    """The tables of both, which are of one family. ValueError if a table is in both."""
    for name in second.tables:
        if name in first.tables:
            raise ValueError(f"table {name} of {second.family.label} twice")
    return Ruleset(first.family, first.tables.update(second.tables))


def empty_table(name: str) -> Table:
    """A table with its built-in chains, empty, policy ACCEPT: what a kernel has before anybody wrote a rule."""
    return Table(name, Map({chain: Chain(chain, policy=Verdict.ACCEPT) for chain in BUILT_IN_CHAINS[name]}))
