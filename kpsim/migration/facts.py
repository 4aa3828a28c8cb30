"""What is known of a change between two proxy modes, as values. ``table`` has them, by the two modes.

Every fact names the place of the specification that says it.
"""

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kpsim.explore import Cluster
from kpsim.ruleset import Hook


class Severity(enum.StrEnum):
    """What a finding about a node or its programs asks for, the most urgent first."""

    FAILS = "fails"  #: kube-proxy does not start
    CHECK = "check"  #: somebody has to look
    UNKNOWN = "unknown"  #: the input does not tell
    FINE = "fine"


class Subject(enum.StrEnum):
    """What of a node has a version that matters."""

    KERNEL = "kernel"
    KUBE_PROXY = "kube-proxy"


Version = tuple[int, int]  #: major and minor


@dataclass(frozen=True, slots=True)
class Threshold:
    """What is said of a node whose subject has a version below ``below``."""

    subject: Subject
    below: Version
    severity: Severity
    words: str
    see: str


@dataclass(frozen=True, slots=True)
class Order:
    """What a chain of another program's nftables table notices, if its priority is ``low`` or more and below ``high``."""

    hooks: frozenset[Hook]
    low: int
    high: int
    words: str
    see: str


@dataclass(frozen=True, slots=True)
class Remark:
    """A difference that no first packet of a connection shows.

    ``concerns`` returns the names of the Services or nodes that it concerns. None: nobody, so it is not said. ``more``
    returns sentences that depend on the cluster, which go behind the words.
    """

    title: str
    words: str
    see: str
    concerns: Callable[["Situation"], tuple[str, ...] | None]
    stops: bool = False  #: whether something that works today stops
    more: Callable[["Situation"], str] = lambda _: ""


@dataclass(frozen=True, slots=True)
class Setting:
    """A field that the configuration to start with sets, and why. ``path`` names it with dots."""

    path: str
    value: Any
    words: str
    see: str


@dataclass(frozen=True, slots=True)
class Costs:
    """What a mode costs. The functions take a number of Services.

    ``first_packet_us`` returns the microseconds that the rules cost the first packet of a connection, by the tool that
    loads them (K-10); empty: nobody has published them. ``start_s`` returns the seconds of the first sync after a start
    (FIG-2); None: nobody has published them.
    """

    tool: str  #: that the mode sends its rules to
    first_packet_us: Callable[[int], Mapping[str, float]]
    start_s: Callable[[int], float | None]
    change: str  #: published, of a sync after one change; a sentence


@dataclass(frozen=True, slots=True)
class Question:
    """A command to run on each node, and what its answer means."""

    command: str
    words: str
    see: str


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between two modes, in one direction."""

    thresholds: tuple[Threshold, ...] = ()
    remarks: tuple[Remark, ...] = ()
    questions: tuple[Question, ...] = ()
    programs: Mapping[str, tuple[str, str]] = field(default_factory=dict)  #: program → advice and place
    orders: tuple[Order, ...] = ()
    closed: Mapping[Hook, tuple[str, str]] = field(default_factory=dict)  #: what a policy of DROP closes, and place
    referred: tuple[str, str] = ("", "")  #: what becomes of rules that lead to kube-proxy's chains, and place
    marked: tuple[str, str] = ("", "")  #: what becomes of rules that read or write the masquerade mark, and place
    settings: Callable[["Situation"], Iterable[Setting]] = lambda _: ()  #: what the new configuration has to say
    dropped: Mapping[str, tuple[str, str]] = field(
        default_factory=dict
    )  #: option that only the old mode has → words, place
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeVersions:
    """The versions that a Node object tells. None: it does not."""

    name: str
    kernel: Version | None
    kube_proxy: Version | None
    texts: Mapping[str, str]  #: what the object says, by field of ``nodeInfo``
    windows: bool = False

    def version(self, subject: Subject) -> Version | None:
        return self.kernel if subject is Subject.KERNEL else self.kube_proxy


@dataclass(frozen=True, slots=True)
class Situation:
    """What remarks are asked about."""

    cluster: Cluster
    nodes: tuple[NodeVersions, ...]
