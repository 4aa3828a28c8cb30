"""Reads what the tools of one machine saved, from several files that are told apart by what they hold."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.dialects import (
    Kind,
    OnUnknown,
    changed_sets,
    dialect_reading,
    dialects,
    kind_of,
    read_ipsets,
    read_servers,
)
from kpsim.errors import InputError, Problem
from kpsim.inputs import is_stream, read_text, shown_name
from kpsim.ipvs.servers import VirtualServer, VirtualServerKey
from kpsim.maps import Map
from kpsim.programmed import Programmed
from kpsim.ruleset import Ruleset, Set, TableKey, united


def is_saved_rules(path: Path) -> bool:
    """Whether a file is in some dialect of rules. False for a directory, and for a stream, which reading would use up."""
    if is_stream(path) or not path.is_file():
        return False
    try:
        text = read_text(path)
    except InputError:
        return False  # whoever reads it says what is wrong
    return any(dialect.reads(text) for dialect in dialects())


def read_machine(
    files: Iterable[Path | str],
    family: Family | None,
    otherwise: Family | None,
    *,
    unknown: OnUnknown = "refuse",
    elsewhere: Iterable[Path | str] = (),
) -> tuple[Programmed, ...]:
    """What the kernel of a machine was told, one value for each family; the order of the files does not matter.

    A file holds rules, ipsets (``ipset save``) or virtual servers (``ipvsadm -S -n``). One with rules may hold some
    tables or all, of one family or of both. If its text does not tell the family, it is ``family``, else that of all
    other files, else ``otherwise``; None: the text must tell. With ``family``, what is of the other family is left out.
    If files of two tools have the same table, it is read from the first tool's (``dialects()``): nft lists tables of
    iptables in a translation. Of the files ``elsewhere`` only the ipsets are read. InputError if two files of one tool
    have the same table, or two files the same ipset or virtual server.
    """
    texts = _by_kind(files)
    changed = changed_sets(text for _, text in texts[Kind.RULES])
    own, others = texts[Kind.IPSETS], _by_kind(elsewhere)[Kind.IPSETS]
    ipsets = _ipsets([*own, *others], changed) if own or others else None
    held = _ipsets(own, changed)
    rules = _rules(texts[Kind.RULES], family, otherwise, unknown, ipsets)
    servers = _servers(texts[Kind.SERVERS])
    told = {*rules, *servers} or {otherwise or Family.IPV4}
    return tuple(
        Programmed(
            each,
            rules.get(each, Ruleset(each)),
            Map({name: of for name, of in held.items() if of.type is not None and _is_for(of, each)}),
            servers.get(each, Map()),
        )
        for each in sorted(told if family is None else {family})
    )


Texts = list[tuple[str, str]]  #: names of files and what they hold


def _by_kind(files: Iterable[Path | str]) -> dict[Kind, Texts]:
    found: dict[Kind, Texts] = {kind: [] for kind in Kind}
    for name, text in sorted((shown_name(file), read_text(file)) for file in files):
        found[kind_of(text)].append((name, text))
    return found


def _is_for(of: Set, family: Family) -> bool:
    return of.ipset is not None and of.ipset.family in (None, family)


def _ipsets(texts: Texts, changed: Collection[str]) -> Mapping[str, Set]:
    """The ipsets of all files. What is in those that rules change is not known."""
    found: dict[str, Set] = {}
    homes: dict[str, str] = {}
    for name, text in texts:
        for of in read_ipsets(text, file=name).values():
            if of.name in homes:
                raise InputError(Problem(f"ipset {of.name} is also in {homes[of.name]}", file=name))
            homes[of.name] = name
            why = "rules of the machine change the set"
            found[of.name] = Set(name=of.name, ipset=of.ipset, comment=why) if of.name in changed else of
    return found


def _servers(texts: Texts) -> dict[Family, Map[VirtualServerKey, VirtualServer]]:
    found: dict[Family, Map[VirtualServerKey, VirtualServer]] = {}
    for name, text in texts:
        for family, servers in read_servers(text, file=name).items():
            known = found.get(family, Map())
            for key in servers:
                if key in known:
                    place = join_host_port(format_ip(family, key.address), key.port)
                    raise InputError(Problem(f"virtual server {key.protocol} {place} is in two files", file=name))
            found[family] = known.update(servers)
    return found


def _rules(
    texts: Texts,
    family: Family | None,
    otherwise: Family | None,
    unknown: OnUnknown,
    ipsets: Mapping[str, Set] | None,
) -> dict[Family, Ruleset]:
    written = {name: dialect_reading(text) for name, text in texts}
    told = {name: written[name].families(text, file=name) for name, text in texts}
    known = {each for families in told.values() for each in families}
    silent = family or (known.pop() if len(known) == 1 else otherwise)
    found: dict[Family, Ruleset] = {}
    homes: dict[tuple[Family, TableKey], str] = {}
    ranks = {dialect.name: rank for rank, dialect in enumerate(dialects())}
    elsewhere: dict[str, set[TableKey]] = {}  # by dialect: the tables of those before it
    for name, text in sorted(texts, key=lambda each: ranks[written[each[0]].name]):
        dialect = written[name]
        passed = elsewhere.setdefault(dialect.name, {key for _, key in homes})
        only = family or (silent if not told[name] else told[name][0] if len(told[name]) == 1 else None)
        for ruleset in dialect.parse(text, only, file=name, unknown=unknown, elsewhere=passed, ipsets=ipsets):
            each = ruleset.family
            for key in (table.key for table in ruleset.in_order()):
                if (each, key) in homes:
                    raise InputError(Problem(f"table {key} of {each.label} is also in {homes[each, key]}", file=name))
                homes[each, key] = name
            found[each] = united(found[each], ruleset) if each in found else ruleset
    return found
