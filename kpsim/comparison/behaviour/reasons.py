"""Why packets fare differently: known differences between proxy modes, and what two clusters have differently.

The rows of a pair of modes are differences that the specification describes. They explain packets of nodes whose modes
differ, as far as their fates look like it. What is left is explained by what the clusters' objects differ in.
"""

from collections.abc import Mapping
from typing import Any

from kpsim.comparison.behaviour import reasons_of_ipvs, reasons_of_nftables
from kpsim.comparison.behaviour.circumstances import Circumstances, Reason, Why
from kpsim.config import Mode

#: of two modes: what is known of their differences. ``Circumstances.fates`` has the fate in the first mode first
_BETWEEN: Mapping[tuple[Mode, Mode], tuple[Reason, ...]] = {
    (Mode.IPTABLES, Mode.NFTABLES): reasons_of_nftables.REASONS,
    (Mode.IPVS, Mode.IPTABLES): reasons_of_ipvs.AGAINST_IPTABLES,
    (Mode.IPVS, Mode.NFTABLES): reasons_of_ipvs.AGAINST_NFTABLES,
}
_MODES: Mapping[tuple[Mode, Mode], Why] = {
    pair: Why("mode", "the proxy modes differ", "IPVS-17" if Mode.IPVS in pair else "NFT-12") for pair in _BETWEEN
}
RULES = Why("rules", "the rules differ")

#: changed fields of a Service, by the place that says what they do
_FIELDS = {
    "externalTrafficPolicy": "T-7", "internalTrafficPolicy": "T-7", "sessionAffinity": "I-8", "sessionAffinityConfig": "I-8",
    "loadBalancerSourceRanges": "I-7", "trafficDistribution": "T-6.2",
}  # fmt: skip


def codes() -> tuple[str, ...]:
    """Every code of a reason."""
    found = [reason.why.code for reasons in _BETWEEN.values() for reason in reasons]
    found += [why.code for why in _MODES.values()]
    return tuple(dict.fromkeys([*found, RULES.code, "service", "endpoints", "configuration", "node"]))


def known_difference(at: Circumstances, modes: tuple[Mode, Mode]) -> Why:
    """The difference between modes that explains packets' fates, of nodes that run these modes on the two sides."""
    if modes not in _BETWEEN:
        modes = modes[::-1]
        at = at._replace(turned=True)
    return next((reason.why for reason in _BETWEEN[modes] if reason.holds(at)), _MODES[modes])


def changed_fields(before: Any, after: Any) -> list[str]:
    """The fields of two objects' specs that differ, each with its two values in words."""
    names = sorted({*before, *after})
    return [
        f"{name} {_shown(before.get(name))} → {_shown(after.get(name))}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _shown(value: Any) -> str:
    match value:
        case None:
            return "unset"
        case str() | int() | bool():
            return str(value)
        case list() if all(isinstance(each, str) for each in value):
            return ", ".join(value) or "none"
        case _:
            return "other"


def place_of(changed: list[str]) -> str:
    """The place of the specification that says what the first changed field does."""
    return next((_FIELDS[each.split(" ")[0]] for each in changed if each.split(" ")[0] in _FIELDS), "")
