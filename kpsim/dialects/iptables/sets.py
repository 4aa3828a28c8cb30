"""``-m set``: reads and writes look-ups in ipsets.

Counterpart: libxt_set of iptables 1.8.9. iptables asks the kernel for a set when it reads a rule, so the sets are given
beside the text.
"""

import re
from collections.abc import Mapping

from kpsim.addresses import Family
from kpsim.dialects.iptables.extensions import Arguments, required
from kpsim.dialects.iptables.values import Form, NotModelled, Read
from kpsim.ruleset import Field, Lookup, Masked, Set, Source, set_match

Ipsets = Mapping[str, Set] | None  #: those that the machine had; None: they are not known
_MOST_DIRECTIONS = 6
_LONGEST_NAME = 31
_CHANGING = re.compile(r"--(?:add|del|map)-set\s+(?:\"([^\"]*)\"|(\S+))")
_DIRECTIONS: Mapping[Field, str] = {
    Field.SADDR: "src", Field.DADDR: "dst", Field.SPORT_OR_TYPE: "src", Field.DPORT_OR_TYPE: "dst",
    Field.SPORT_OF_BITMAP: "src", Field.DPORT_OF_BITMAP: "dst", Field.IIFNAME: "src", Field.OIFNAME: "dst", Field.MARK: "src",
}  # fmt: skip


def changed_by_rules(text: str) -> frozenset[str]:
    """The sets into which rules of a text put packets' addresses, or out of which they take them."""
    return frozenset(quoted or name for quoted, name in _CHANGING.findall(text))


def read_match_set(arguments: Arguments, family: Family, ipsets: Ipsets = None) -> Read:
    """Reads ``--match-set NAME DIRECTIONS``. The detail is the directions.

    ValueError for what iptables refuses; NotModelled if it is not known what is in the set.
    """
    text, negate = required(arguments, "--match-set"), arguments["--match-set"][1]
    name, _, words = text.rpartition(" ")
    directions = words.split(",")
    if any(word not in ("src", "dst") for word in directions):
        raise ValueError(f"not src or dst, or several of them with commas: {words!r}")
    if len(directions) > _MOST_DIRECTIONS:
        raise ValueError(f"-m set takes at most {_MOST_DIRECTIONS} directions: {words}")
    if not name or len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"not a name of a set, of 1 to {_LONGEST_NAME} characters: {name!r}")
    if ipsets is None:
        raise NotModelled(f"-m set --match-set {text}: what is in the set is not known (ipset save gives it)")
    of = ipsets.get(name)
    if of is None:
        raise ValueError(f"there is no ipset {name}, and iptables-restore refuses a rule that names one")
    assert of.ipset is not None
    if of.type is None:
        raise NotModelled(f"-m set --match-set {text}: {of.comment or f'a set of type {of.ipset.kind}'}")
    if of.ipset.family not in (None, family):
        raise ValueError(f"the ipset {name} is of {of.ipset.family.label}, the rule of {family.label}")
    return Read(set_match(of, directions, negate=negate), words)


def write_match_set(lookup: Lookup, directions: str | None, _form: Form) -> str:
    negated = "! " if lookup.negate else ""
    return f"{negated}--match-set {lookup.set.name} {directions or _directions(lookup)}"


def _directions(lookup: Lookup) -> str:
    """The directions that mean the parts of a key."""
    fields = (_field(source) for source in lookup.key if source is not Field.L4PROTO)
    found = [_DIRECTIONS[field] for field in fields if field is not None]
    if not found:
        raise ValueError(f"iptables cannot say {lookup}")
    return ",".join(found)


def _field(source: Source) -> Field | None:
    return source.field if isinstance(source, Masked) else source if isinstance(source, Field) else None
