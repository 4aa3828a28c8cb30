"""Chains that see frames, not packets of the node: tables of bridge and netdev, and the hooks ingress and egress.

They are not modelled. Kept on request, they leave the fate of the packets that pass them unknown.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kpsim.maps import Map
from kpsim.ruleset import (
    Base,
    BridgePort,
    Chain,
    ChainType,
    Compare,
    Expression,
    Field,
    Hook,
    Rule,
    Space,
    Table,
    TableKey,
    Unmodelled,
)

HOOKS = ("ingress", "egress")
_FIRST = -(1 << 31)  #: before or behind every chain of packets


def refused(space: Space, about: Mapping[str, Any]) -> str | None:
    """Why a table of packets cannot have a chain at this hook, or with this device; None if it can."""
    hook, seeing = about["hook"], about["hook"] in HOOKS
    if hook == "egress" or (seeing and space is not Space.INET):
        return f"hook {hook} is for tables of netdev" + (" and inet" if hook == "ingress" else "")
    if seeing and "dev" not in about:
        return f"hook {hook} needs a device"
    return "a device is for hook ingress" if "dev" in about and not seeing else None


def kept_table(family: str, name: str, chains: Sequence[Mapping[str, Any]]) -> Table:
    """A table in which packets meet what these chains of frames may do to them."""
    made = {}
    for about in chains:
        words = f"table {family} {name}, chain {about['name']}"
        hook = Hook.POSTROUTING if about["hook"] == "egress" else Hook.PREROUTING
        priority = -_FIRST - 1 if hook is Hook.POSTROUTING else _FIRST
        rule = Rule((*_passing(family, about), Unmodelled(words)))
        made[about["name"]] = Chain(about["name"], (rule,), Base(ChainType.FILTER, hook, priority))
    return Table(TableKey(Space.INET, f"{family} {name}"), Map(made))


def _passing(family: str, about: Mapping[str, Any]) -> Iterator[Expression]:
    """The packets that pass a chain: those of its devices, or those that come by a bridge."""
    if family == "bridge":
        yield BridgePort("in")
        return
    devices = about.get("dev", ())
    names = [devices] if isinstance(devices, str) else devices
    if names:
        yield Compare(Field.OIFNAME if about["hook"] == "egress" else Field.IIFNAME, frozenset(map(str, names)))
