"""What the tools of a sync cost on some machine: files of kind SyncCosts, shipped or measured by ``kpsim calibrate``.

Counterpart: iptables-restore, nft, ipset and ip_vs at work. A file has a price for each thing that a backend counts
(``backends.work``). What kube-proxy itself takes, to make the rules, is in files that were published of whole syncs, and not in
measured ones.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from kpsim.backends.work import Act, Call, Tool
from kpsim.errors import InputError, Problem
from kpsim.inputs import read_text
from kpsim.lab.tools.variants import Variant
from kpsim.manifests.places import problems_of
from kpsim.manifests.reading import Reading, read_content
from kpsim.scenario.document import Document
from kpsim.scenario.problems import findings_of, suggestion
from kpsim.scenario.quantities import DurationNs, Part

_FOLDER = Path(__file__).parent / "costs"
_SUFFIXES = (".yaml", ".yml", ".json")
_MILLION = 1_000_000

Share = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)]


class CallCost(Part):
    """What one kind of calls costs: the sum of all that is given."""

    base_ns: DurationNs = 0
    """Each process, with nothing to do."""
    per_written_ns: DurationNs = 0
    """Each line or object that is handed over."""
    per_held_ns: DurationNs = 0
    """Each object of kube-proxy that the kernel holds and the tool reads or exchanges."""
    per_million_pairs_ns: DurationNs = 0
    """A million steps through lists that the kernel or the tool walks for each new object."""
    measurements: Annotated[int, Field(ge=0)] = 0
    """How many measurements the numbers were fitted to."""
    median_error: Share = 0.0
    """How far the numbers are from half of them, as a share."""
    worst_error: Share = 0.0

    def duration_ns(self, call: Call) -> int:
        """Return how long these calls take. Integers, so the same on any machine."""
        return (
            self.base_ns * call.times
            + self.per_written_ns * call.written
            + self.per_held_ns * call.held
            + self.per_million_pairs_ns * call.pairs // _MILLION
        )


class ToolCosts(Part):
    """What a tool costs. A kind of calls that is left out takes no time of its own."""

    write: CallCost = CallCost()
    """Documents and changes: iptables-restore, ``nft -f``, ``ipset add`` and ``del``, ip_vs."""
    read: CallCost = CallCost()
    """Listings: iptables-save, ``nft list``, ``ipset list``."""
    check: CallCost = CallCost()
    """Single chains, jumps and sets that are made unless they are there."""

    def of(self, act: Act) -> CallCost:
        """Return what calls of one kind cost."""
        match act:
            case Act.WRITE:
                return self.write
            case Act.READ:
                return self.read
            case Act.CHECK:
                return self.check


class Machine(Part):
    """Where the costs come from, in words. Nothing depends on it."""

    date: str = ""
    kernel: str = ""
    cpu: str = ""
    processors: Annotated[int, Field(ge=0)] = 0
    tools: dict[str, str] = Field(default_factory=dict)
    """The version of each tool."""
    clusters: tuple[str, ...] = ()
    """The clusters that were measured: Services × endpoints of each."""


class Priced(Part):
    """The prices, by tool. ``iptables`` is either variant, where a source does not say which."""

    iptables: ToolCosts | None = None
    iptables_nft: Annotated[ToolCosts | None, Field(alias="iptables-nft")] = None
    iptables_legacy: Annotated[ToolCosts | None, Field(alias="iptables-legacy")] = None
    nft: ToolCosts | None = None
    ipset: ToolCosts | None = None
    ip_vs: Annotated[ToolCosts | None, Field(alias="ip_vs")] = None

    def of(self, tool: Tool, variant: Variant | None) -> ToolCosts | None:
        """Return a tool's prices, or None. Of iptables, those of the variant; of no variant, the first that there are."""
        match tool:
            case Tool.IPTABLES if variant is Variant.LEGACY:
                return self.iptables_legacy or self.iptables
            case Tool.IPTABLES if variant is Variant.NFT:
                return self.iptables_nft or self.iptables
            case Tool.IPTABLES:
                return self.iptables_nft or self.iptables or self.iptables_legacy
            case Tool.NFT:
                return self.nft
            case Tool.IPSET:
                return self.ipset
            case Tool.IP_VS:
                return self.ip_vs

    @property
    def tells_variants(self) -> bool:
        """Whether a variant of iptables has prices of its own."""
        return self.iptables is None or self.iptables_nft is not None or self.iptables_legacy is not None

    @property
    def names(self) -> list[str]:
        """The tools that have prices, as the file names them."""
        return [
            field.alias or name for name, field in type(self).model_fields.items() if getattr(self, name) is not None
        ]


class Metadata(Part):
    name: Annotated[str, Field(min_length=1, max_length=253)]


class SyncCosts(Part):
    """A whole file."""

    api_version: Literal["kpsim.dev/v1alpha1"]
    kind: Literal["SyncCosts"]
    metadata: Metadata
    description: str = ""
    source: str = ""
    """Who published the figures, and which they are."""
    machine: Machine = Machine()
    costs: Priced
    not_measured: dict[str, str] = Field(default_factory=dict)
    """The tools that could not be measured, and why."""

    def duration_ns(self, calls: Iterable[Call], variant: Variant | None = None) -> int:
        """Return how long these calls take one after the other. KeyError for a tool without prices."""
        total = 0
        for call in calls:
            priced = self.costs.of(call.tool, variant)
            if priced is None:
                raise KeyError(call.tool)
            total += priced.of(call.act).duration_ns(call)
        return total

    def lacks(self, tools: Collection[Tool], variant: Variant | None) -> list[str]:
        """Return the tools of these that have no prices."""
        missing = [tool for tool in tools if self.costs.of(tool, variant) is None]
        return [
            f"iptables-{variant}" if tool is Tool.IPTABLES and variant is not None else tool.value for tool in missing
        ]


def cost_names() -> tuple[str, ...]:
    """Return the names of the shipped files, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def _find(name: str, beside: str) -> Path:
    if name in cost_names():
        return _FOLDER / f"{name}.yaml"
    path = Path(beside).parent / name
    if not path.exists() and path.suffix not in _SUFFIXES:
        near = suggestion(name, cost_names()) or f"; it has {', '.join(cost_names())}"
        raise InputError(f"{name!r} is neither a file nor costs that kpsim has{near}")
    return path


def load_costs(name: str, *, beside: str = "") -> SyncCosts:
    """Load shipped costs by name, or a file whose path is relative to that of the file ``beside``.

    InputError holds everything that is wrong: file, line, path, and what was expected.
    """
    path = _find(name, beside)
    return parse_costs(read_text(path), str(path))


def parse_costs(text: str, file: str) -> SyncCosts:
    """Parse a text as :func:`load_costs` does."""
    reading = Reading()
    read_content(text.encode("utf-8", "surrogatepass"), file, reading)
    if findings := [*reading.findings, *(fault.finding for read in reading.documents for fault in read.faults)]:
        raise InputError(problems_of(findings))
    values = [read.value for read in reading.documents]
    if len(values) != 1 or not isinstance(values[0], Mapping):
        raise InputError(Problem(f"expected one document, SyncCosts; got {len(values)}", file=file))
    document = Document(values[0], reading.documents[0].place)
    try:
        return SyncCosts.model_validate_json(json.dumps(values[0]), by_alias=True, by_name=False)
    except ValidationError as error:
        raise InputError(problems_of(findings_of(error, document, SyncCosts))) from None
