"""Reads the saved rules of one machine from several files, told apart by what they hold."""

from collections.abc import Iterable
from pathlib import Path

from kpsim.addresses import Family
from kpsim.dialects import OnUnknown, dialect_reading
from kpsim.errors import InputError, Problem
from kpsim.inputs import read_text, shown_name
from kpsim.ruleset import Ruleset, TableKey, united


def read_machine(
    files: Iterable[Path | str], family: Family | None, otherwise: Family, *, unknown: OnUnknown = "refuse"
) -> tuple[Ruleset, ...]:
    """The rules of a machine, one ruleset for each family; the order of the files does not matter.

    A file may hold some tables or all, of one family or of both. If its text does not tell the family, it is
    ``family``, else that of all other files, else ``otherwise``. With ``family``, rules of the other family are left
    out. InputError if two files have the same table.
    """
    texts = sorted((shown_name(file), read_text(file)) for file in files)
    told = {name: dialect_reading(text).families(text, file=name) for name, text in texts}
    known = {each for families in told.values() for each in families}
    silent = family or (known.pop() if len(known) == 1 else otherwise)
    found: dict[Family, Ruleset] = {}
    homes: dict[TableKey, str] = {}
    for name, text in texts:
        for each in (family,) if family else told[name] or (silent,):
            [ruleset] = dialect_reading(text).parse(text, each, file=name, unknown=unknown)
            for key in sorted(ruleset.tables):
                if key in homes:
                    raise InputError(Problem(f"table {key} of {each.label} is also in {homes[key]}", file=name))
                homes[key] = name
            found[each] = united(found[each], ruleset) if each in found else ruleset
    return tuple(found[each] for each in sorted(found))
