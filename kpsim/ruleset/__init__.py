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
    Hashed,
    Intervals,
    Limit,
    LocalSocket,
    Lookup,
    Masked,
    Numgen,
    Recent,
    ReversePath,
    RoutingHeader,
    Source,
    Special,
    Unknown,
    among,
    equal,
    named,
    within,
    within_any,
)
from kpsim.ruleset.fields import OF_CONNECTION, TCP_FLAG_BITS, Field, FieldType
from kpsim.ruleset.ipsets import IPSET_KINDS, IpsetKind, make_ipset, set_match
from kpsim.ruleset.origin import FOREIGN, Origin, Role
from kpsim.ruleset.sets import (
    NO_SET_FLAGS,
    PLAIN,
    Atom,
    DataType,
    Element,
    Interval,
    Ipset,
    Key,
    NamePattern,
    Part,
    Set,
    SetFlags,
    SetReference,
    SetType,
    is_for_the_rest,
)
from kpsim.ruleset.statements import (
    ALL_BITS,
    NO_FLAGS,
    Adjust,
    Assign,
    AssignFrom,
    Body,
    Dispatch,
    Dnat,
    Log,
    MapNetwork,
    Mapped,
    Masquerade,
    NatFlags,
    NoTrack,
    Redirect,
    Reject,
    RejectWith,
    SetTimeToLive,
    SetTrafficClass,
    SetVerb,
    Snat,
    Statement,
    Unmodelled,
    UpdateSet,
    moves_nothing,
    sources_of,
    target_of,
)
from kpsim.ruleset.tables import (
    Base,
    Chain,
    ChainType,
    ElementReference,
    Hook,
    Rule,
    RuleReference,
    Ruleset,
    Space,
    Table,
    TableKey,
    united,
)
from kpsim.ruleset.verdicts import ACCEPT, CONTINUE, DROP, RETURN, Goto, Jump, Terminal, Verdict

__all__ = [
    "ACCEPT", "ALL_BITS", "Adjust", "Assign", "AssignFrom", "Atom", "Base", "Body", "BridgePort", "CONTINUE", "Chain", "ChainType", "Chance", "Compare", "Counter", "DROP", "DataType", "Dispatch", "Dnat", "EitherPort", "Element", "ElementReference", "Expression", "FOREIGN", "Field", "FieldType", "Goto", "Hashed", "Hook", "IPSET_KINDS", "Interval", "Intervals", "Ipset", "IpsetKind", "Jump", "Key", "Limit", "LocalSocket", "Log", "Lookup", "MapNetwork", "Mapped", "Masked", "Masquerade", "NO_FLAGS", "NO_SET_FLAGS", "NamePattern", "NatFlags", "NoTrack", "Numgen", "OF_CONNECTION", "Origin", "PLAIN", "Part", "RETURN", "Recent", "Redirect", "Reject", "RejectWith", "ReversePath", "Role", "RoutingHeader", "Rule", "RuleReference", "Ruleset", "Set", "SetFlags", "SetReference", "SetTimeToLive", "SetTrafficClass", "SetType", "SetVerb", "Snat", "Source", "Space", "Special", "Statement", "TCP_FLAG_BITS", "Table", "TableKey", "Terminal", "Unknown", "Unmodelled", "UpdateSet", "Verdict", "among", "equal", "is_for_the_rest", "make_ipset", "moves_nothing", "named", "set_match", "sources_of", "target_of", "united", "within", "within_any",
]  # fmt: skip
