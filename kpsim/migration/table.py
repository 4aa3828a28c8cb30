"""The table of changes between modes: the one place in this package that names them.

A new pair of modes is a module with its facts and a row of ``_CHANGES``; a new mode is a row of ``_COSTS``.
"""

from collections.abc import Mapping
from importlib import import_module

from kpsim.config import Mode
from kpsim.errors import InputError
from kpsim.migration.facts import Change, Costs

#: source and target → the module that has what is known of the change as ``CHANGE``
_CHANGES = {
    (Mode.IPTABLES, Mode.NFTABLES): "kpsim.migration.iptables_to_nftables",
    (Mode.NFTABLES, Mode.IPTABLES): "kpsim.migration.nftables_to_iptables",
    (Mode.IPVS, Mode.NFTABLES): "kpsim.migration.ipvs_to_nftables",
    (Mode.IPVS, Mode.IPTABLES): "kpsim.migration.ipvs_to_iptables",
}
#: targets to which no change is described, and why
_NO_TARGET = {Mode.IPVS: "it is deprecated, and kube-proxy asks its users to leave it (IPVS-1.5)"}


def change_between(source: Mode, target: Mode) -> Change:
    """What is known of a change of mode. InputError if there is nothing to change, or if nothing is known of it."""
    if source is target:
        raise InputError(f"the cluster is in {target} mode already; --from names the mode that it runs today")
    if target in _NO_TARGET:
        raise InputError(f"to {target}: no change to this mode is described: {_NO_TARGET[target]}")
    if (source, target) not in _CHANGES:
        known = ", ".join(f"{a} to {b}" for a, b in _CHANGES)
        raise InputError(f"from {source} to {target}: no such change is described yet, only {known}")
    change: Change = import_module(_CHANGES[source, target]).CHANGE
    return change


_US_PER_SERVICE = {
    "iptables-legacy": (5.5, 0.00575),
    "iptables-nft": (6.7, 0.0241),
}  #: K-10: at the first, for each more


def _first_packet_of_chains(services: int) -> Mapping[str, float]:
    return {tool: start + each * services for tool, (start, each) in _US_PER_SERVICE.items()}


def _first_packet_of_maps(services: int) -> Mapping[str, float]:
    return {"nft": 6.1 if services <= 1_000 else 8.1}


_COSTS: Mapping[Mode, Costs] = {
    Mode.IPTABLES: Costs(
        tool="iptables-restore",
        first_packet_us=_first_packet_of_chains,
        start_s=lambda services: services * 40.1 / 10_000,
        change="Every sync writes the rules that dispatch to all Services, so it takes the longer the more there are.",
    ),
    Mode.NFTABLES: Costs(
        tool="nft",
        first_packet_us=_first_packet_of_maps,
        start_s=lambda services: services * 194 / 10_000,
        change="A sync writes what changed: 141 ms for a new Service among 10,000. Up to 1.36 it also lists the table first, which "
        "takes more than a minute with 44,000 Services.",
    ),
    Mode.IPVS: Costs(
        tool="iptables-restore",
        first_packet_us=lambda _: {},
        start_s=lambda _: None,
        change="Every sync goes through all Services, endpoints and addresses; with many Services it takes tens of seconds up to 1.36. "
        "A first packet costs about as much as in nftables mode, for any number of Services.",
    ),
}


def costs_of(mode: Mode) -> Costs:
    """What a mode costs. InputError if no figures of it are known."""
    if mode not in _COSTS:
        raise InputError(f"mode {mode}: what it costs is not known")
    return _COSTS[mode]
