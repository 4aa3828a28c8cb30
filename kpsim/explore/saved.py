"""Reads the saved rules of one machine from several files, told apart by what they hold."""

from collections.abc import Iterable
from pathlib import Path

from kpsim.addresses import Family
from kpsim.dialects import OnUnknown, dialect_reading, dialects
from kpsim.errors import InputError, Problem
from kpsim.inputs import is_stream, read_text, shown_name
from kpsim.programmed import Programmed
from kpsim.ruleset import Ruleset, TableKey, united


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
    files: Iterable[Path | str], family: Family | None, otherwise: Family | None, *, unknown: OnUnknown = "refuse"
) -> tuple[Programmed, ...]:
    """What the kernel of a machine was told, one value for each family; the order of the files does not matter.

    A file may hold some tables or all, of one family or of both. If its text does not tell the family, it is
    ``family``, else that of all other files, else ``otherwise``; None: the text must tell. With ``family``, rules of the other family are left
    out. If files of two tools have the same table, it is read from the first tool's (``dialects()``): nft lists tables
    of iptables in a translation. InputError if two files of one tool have the same table.
    """
    texts = sorted((shown_name(file), read_text(file)) for file in files)
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
        for ruleset in dialect.parse(text, only, file=name, unknown=unknown, elsewhere=passed):
            each = ruleset.family
            for key in (table.key for table in ruleset.in_order()):
                if (each, key) in homes:
                    raise InputError(Problem(f"table {key} of {each.label} is also in {homes[each, key]}", file=name))
                homes[each, key] = name
            found[each] = united(found[each], ruleset) if each in found else ruleset
    return tuple(Programmed.of(found[each]) for each in sorted(found))
