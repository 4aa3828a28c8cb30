"""The one rule model: frozen values that packets run on and that every dialect parses and renders.

A rule compares *fields* of a packet with values (:mod:`~kpsim.ruleset.expressions`) and then does something
(:mod:`~kpsim.ruleset.statements`). It says everything that the kernel evaluates and nothing else. How a tool spells an
option is written in ``dialects``, so two rules that differ only in text are equal. Nothing here names a proxy mode or a
tool.
"""

from kpsim.ruleset.expressions import (
    BridgePort,
    Chance,
    Compare,
    Counter,
    EitherPort,
    Expression,
    Interval,
    Intervals,
    Limit,
    LocalSocket,
    Lookup,
    NamePattern,
    Recent,
    ReversePath,
    RoutingHeader,
    Special,
    Unknown,
    among,
    equal,
    named,
    within,
)
from kpsim.ruleset.fields import OF_CONNECTION, TCP_FLAG_BITS, Field, FieldType
from kpsim.ruleset.origin import FOREIGN, Origin, Role
from kpsim.ruleset.sets import Atom, Key, Set
from kpsim.ruleset.statements import (
    ACCEPT,
    ALL_BITS,
    DROP,
    NO_FLAGS,
    RETURN,
    Adjust,
    Assign,
    Body,
    Dnat,
    Goto,
    Jump,
    Log,
    MapNetwork,
    Masquerade,
    NatFlags,
    NoTrack,
    Redirect,
    Reject,
    RejectWith,
    SetTimeToLive,
    Snat,
    Statement,
    Terminal,
    Unmodelled,
    Verdict,
    moves_nothing,
    target_of,
)
from kpsim.ruleset.tables import (
    Base,
    Chain,
    ChainType,
    Hook,
    Rule,
    RuleReference,
    Ruleset,
    Space,
    Table,
    TableKey,
    united,
)

__all__ = [
    "ACCEPT", "ALL_BITS", "DROP", "FOREIGN", "NO_FLAGS", "OF_CONNECTION", "RETURN", "TCP_FLAG_BITS", "Adjust", "Assign",
    "Atom", "Base", "Body", "BridgePort", "Chain", "ChainType", "Chance", "Compare", "Counter", "Dnat", "EitherPort", "Expression", "Field",
    "FieldType", "Goto", "Hook", "Interval", "Intervals", "Jump", "Key", "Limit", "LocalSocket", "Log", "Lookup", "MapNetwork", "Masquerade", "NamePattern",
    "NatFlags", "NoTrack", "Origin", "Recent", "Redirect", "Reject", "RejectWith", "ReversePath", "Role", "RoutingHeader", "Rule", "RuleReference",
    "Ruleset", "Set", "SetTimeToLive", "Snat", "Space", "Special", "Statement", "Table", "TableKey", "Terminal", "Unknown", "Unmodelled", "Verdict", "among", "equal",
    "moves_nothing", "named", "target_of", "united", "within",
]  # fmt: skip
