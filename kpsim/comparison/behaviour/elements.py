"""What elements of sets are made of, and whose rules use sets and lists that packets put members into."""

from collections.abc import Callable, Mapping
from typing import Any

from kpsim.addresses import Family
from kpsim.comparison.behaviour.components import Address
from kpsim.ruleset import (
    DataType,
    Dispatch,
    Field,
    FieldType,
    Lookup,
    Masked,
    Recent,
    Rule,
    SetReference,
    Table,
    UpdateSet,
)

_ADDRESSES = (DataType.IPV4_ADDRESS, DataType.IPV6_ADDRESS)


def kind_of(source: Any) -> FieldType | None:
    """Whether a part of a key is an address or a port; None: neither."""
    field = source.field if isinstance(source, Masked) else source
    kind = field.type if isinstance(field, Field) else None
    return kind if kind in (FieldType.ADDRESS, FieldType.PORT) else None


def kind_of_data(kind: DataType) -> FieldType | None:
    """Whether a set declares a part as an address or a port; None: neither."""
    return FieldType.ADDRESS if kind in _ADDRESSES else FieldType.PORT if kind is DataType.PORT else None


def constant_of(family: Family, kind: FieldType | None, part: Any) -> Address | int | None:
    """The one address or port that a part of a key is; None: it is something else, or an interval."""
    if not isinstance(part, int):
        return None
    return (family, part) if kind is FieldType.ADDRESS else part if kind is FieldType.PORT else None


def users_of_memory(
    table: Table, owners: Mapping[str, int], owner_of: Callable[[Rule], int | None]
) -> dict[str, set[int | None]]:
    """Whose rules use each named set and each list of recent addresses. ``owners`` are those of whole chains."""
    users: dict[str, set[int | None]] = {}
    for chain in table.chains.values():
        of_chain = owners.get(chain.name)
        for rule in chain.rules:
            owner = owner_of(rule) if of_chain is None else of_chain
            for part in rule.body:
                match part:
                    case Recent(name):
                        users.setdefault(f"recent {name}", set()).add(owner)
                    case UpdateSet(set=SetReference(name)) | Lookup(set=SetReference(name)):
                        users.setdefault(name, set()).add(owner)
                    case Dispatch(map=SetReference(name)):
                        users.setdefault(name, set()).add(None)
                    case _:
                        pass
    return users
