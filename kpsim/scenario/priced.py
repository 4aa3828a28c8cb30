"""The costs of syncs that a scenario names: read beside it, and asked whether they cover what its mode does."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from kpsim.backends.table import traits_of
from kpsim.backends.work import Tool
from kpsim.config import Mode
from kpsim.errors import InputError, Problem
from kpsim.manifests.places import Path, format_path
from kpsim.scenario.document import Document
from kpsim.scenario.schema import Delays, SyncCost
from kpsim.scenario.sync_costs import SyncCosts, load_costs


@dataclass(slots=True)
class Costs:
    """The files by the name that the scenario gives them."""

    named: dict[str, SyncCosts] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_costs(delays: Delays, mode: Mode, document: Document, file: str) -> Costs:
    """Read all files that ``delays`` name. ``problems`` holds all that is wrong with them."""
    found = Costs()
    for path, cost in _given(delays):
        if cost.costs is None:
            continue
        if cost.costs not in found.named:
            here = (*path, "costs")
            try:
                found.named[cost.costs] = load_costs(cost.costs, beside=_base(cost.costs, here, document, file))
            except InputError as error:
                found.problems += [p if p.file else document.problem(p.message, here) for p in error.problems]
                continue
        if cost.iptables is None:
            continue
        where = ".".join(map(str, path))
        if Tool.IPTABLES not in traits_of(mode).tools:
            found.notes.append(f"{where}.iptables decides nothing: {mode} mode calls no iptables")
        elif not found.named[cost.costs].costs.tells_variants:
            found.notes.append(f"{where}.iptables decides nothing: {cost.costs} has one price for both variants")
    return found


def _base(name: str, path: Path, document: Document, file: str) -> str:
    """The file beside which ``name`` lies. What ``--set`` names and is not beside the scenario lies in the current directory."""
    by_command_line = any(path[: len(set_path)] == set_path for set_path in document.set_by)
    return "" if by_command_line and not (FilePath(file).parent / name).exists() and FilePath(name).exists() else file


def require_costs(delays: Delays, named: Mapping[str, SyncCosts], mode: Mode, file: str) -> None:
    """InputError if costs lack a tool that kube-proxy calls in this mode."""
    problems = []
    for path, cost in _given(delays):
        if cost.costs is not None and (missing := named[cost.costs].lacks(traits_of(mode).tools, cost.iptables)):
            has = ", ".join(named[cost.costs].costs.names) or "none"
            why = f"{cost.costs} has no costs of {' and '.join(missing)}, which kube-proxy calls in {mode} mode; it has {has}"
            problems.append(Problem(why, file=file, path=format_path((*path, "costs"))))
    if problems:
        raise InputError(problems)


def _given(delays: Delays) -> Iterator[tuple[Path, SyncCost]]:
    yield ("delays", "sync"), delays.sync
    for number, special in enumerate(delays.on_nodes):
        if special.sync is not None:
            yield ("delays", "onNodes", number, "sync"), special.sync
