"""A survey: every frontend of a cluster's Services, every kind of client, every node, and on request every policy, in one call."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpsim.bulk import without_collector
from kpsim.effort import Effort, permit
from kpsim.errors import InputError
from kpsim.explore import Cluster, load
from kpsim.reports.columns import csv_of, frame_of, parquet_of
from kpsim.surveys.asking import Port, Progress, ask, is_worth_grouping
from kpsim.surveys.grids import Grid, grids, some
from kpsim.surveys.loads import LOAD_COLUMNS, Load, loads
from kpsim.surveys.questions import FRONTENDS, Asked, frontends_of, left_out, name_of
from kpsim.surveys.rows import COLUMNS, Row
from kpsim.surveys.settings import Setting, settings_of, variants
from kpsim.surveys.writing import Head, fragment_of, page_of, text_of
from kpsim.tracing.names import Via
from kpsim.tracing.site import Sender

if TYPE_CHECKING:
    import pandas as pd

    from kpsim.addresses import Family

#: seconds that a row takes, and each endpoint that may get its request (measured): asked about by itself, and together with
#: akin Services
_ROW_S, _ENDPOINT_S = 0.3e-3, 0.05e-3
_AKIN_ROW_S, _AKIN_ENDPOINT_S = 0.08e-3, 0.01e-3


@dataclass(frozen=True, repr=False)
class Survey:
    """The rows of a survey, and what people are told beside them. A notebook shows the grids."""

    rows: tuple[Row, ...]
    vary: tuple[Setting, ...]
    notes: tuple[str, ...]
    name: str  #: of the cluster, for titles

    @cached_property
    def frame(self) -> "pd.DataFrame":
        """One row for each frontend address, port, kind of client and node, and for each combination of varied settings."""
        return frame_of(COLUMNS, self.rows)

    @cached_property
    def load(self) -> "pd.DataFrame":
        """One row for each endpoint under each frontend and kind of client: its share, if every node gets equally many requests."""
        return frame_of(LOAD_COLUMNS, self.loads)

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        return tuple(loads(self.rows))

    @cached_property
    def grids(self) -> list[Grid]:
        return grids(self.rows, self.vary)

    @property
    def head(self) -> Head:
        """Title, figures and notes. What a load balancer sends to no node is not counted."""
        sent = [row for row in self.rows if row.in_rotation is not False]
        work, fail = sum(row.works == 1 for row in sent), sum(not row.works for row in sent)
        figures = (
            (f"{len({row.service for row in self.rows}):,}", "Services"),
            (f"{len(sent):,}", "exchanges"),
            (f"{work:,}", "work"),
            (f"{len(sent) - work - fail:,}", "work at times"),
            (f"{fail:,}", "never work"),
        )
        varied = f"under every value of {', '.join(self.vary)}" if self.vary else ""
        return Head(f"Survey of {self.name}", varied, figures, self.notes)

    def text(self, width: int = 160) -> str:
        """The grids as plain text."""
        return text_of(self.head, self.grids, width)

    def to_html(self) -> str:
        """The grids as one HTML page that needs nothing else."""
        return page_of(self.head, self.grids)

    def to_csv(self) -> str:
        """The frame as CSV."""
        return csv_of(self.frame)

    def to_parquet(self) -> bytes:
        """The frame as a Parquet file, with the meaning of each column."""
        return parquet_of(COLUMNS, self.frame)

    def to_json(self) -> dict[str, Any]:
        """Rows and loads with exact odds, and the notes."""
        return {
            "vary": [str(setting) for setting in self.vary],
            "rows": [row.to_json() for row in self.rows],
            "load": [each.to_json() for each in self.loads],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        words = ", ".join(f"{value} {name}" for value, name in self.head.figures)
        return f"<{self.head.title}: {words}>"

    def _repr_html_(self) -> str:
        return fragment_of(self.head, self.grids)


def survey(
    cluster: Cluster | Sequence[Path | str] | Path | str,
    *,
    services: Iterable[str] = (),
    vary: Iterable[str] | str = (),
    nodes: Iterable[str] = (),
    clients: Iterable[str] = (),
    frontends: Iterable[str] = (),
    progress: Progress | None = None,
    long: bool = True,
    note: Callable[[str], None] | None = None,
    name: str = "",
) -> Survey:
    """Asks for every frontend, kind of client and node whether a first exchange works, and who gets the request.

    ``cluster`` is a loaded cluster or the files to load. ``services`` are ``namespace/name`` or ``namespace/name:port``, ``clients`` are
    pod, node, external, peer, ``frontends`` clusterIP, externalIP, loadBalancer, nodePort; empty: all. ``vary`` names settings, as a list or separated by commas: externalTrafficPolicy,
    internalTrafficPolicy, trafficDistribution, sessionAffinity, mode. Every combination of their values is asked about, with the
    EndpointSlices that the slice controller would then write (CP-3). Rows are those of ``kpsim trace --expand``: first packets,
    and nodes that remember none before. ``progress`` is called with the work done and the whole, ``note`` with how long it takes if that is
    more than a minute. InputError for a name that the cluster does not have; without ``long`` also for more work than an hour.
    """
    if not isinstance(cluster, Cluster):
        cluster = load(cluster)
    settings = settings_of([each for each in (vary.split(",") if isinstance(vary, str) else vary) if each])
    asked = _asked(cluster, nodes, clients, frontends)
    ports, silent = _ports(cluster, list(services))
    if (effort := _effort(cluster, ports, settings, asked)) is not None:
        permit(effort, long=long, note=note)
    with without_collector():
        every = variants(cluster, list({service.key: service for service, _ in ports}.values()), settings)
        found = ask(ports, every, settings, asked, progress)
    notes = [
        *silent,
        *_not_varied(ports, settings),
        *dict.fromkeys(note for variant in every for note in variant.cluster.notes[len(cluster.notes) :]),
        *_mute(found.mute),
        *_undialled(cluster, ports, asked),
    ]
    return Survey(
        found.rows,
        settings,
        tuple(notes),
        name or f"a cluster of {len(cluster.node_names)} nodes in {cluster.config.mode} mode",
    )


# --------------------------------------------------------------------------------------------------- what is asked about


def _asked(cluster: Cluster, nodes: Iterable[str], clients: Iterable[str], frontends: Iterable[str]) -> Asked:
    for node in (chosen := list(nodes)):
        cluster.check_node(node)
    if not cluster.node_names:
        cluster.check_node("")
    names = tuple(name for name in cluster.node_names if name in chosen or not chosen)
    return Asked(
        cluster.families,
        names,
        _members(Sender, "client", clients) or tuple(Sender),
        _members(Via, "frontend", frontends) or FRONTENDS,
    )


def _members(kind: Any, what: str, names: Iterable[str]) -> tuple[Any, ...]:
    found = []
    for name in names:
        try:
            found.append(kind(name))
        except ValueError:
            raise InputError(f"{what} {name!r} is none of {', '.join(kind)}") from None
    return tuple(found)


def _ports(cluster: Cluster, names: Sequence[str]) -> tuple[list[Port], list[str]]:
    """The Service ports that are asked about, and in words which Services have no frontends. InputError for an unknown name."""
    wanted = {name: cluster.names.port(name) for name in names}
    found: dict[tuple[str, str, str], Port] = {}
    silent: dict[str, list[str]] = {}
    for service in cluster.state.services:
        asked = [only for named, only in wanted.values() if named is service]
        if wanted and not asked:
            continue
        if why := left_out(service):
            silent.setdefault(why, []).append(name_of(service))
            continue
        for port in service.ports:
            if not asked or None in asked or port in asked:
                found[name_of(service), port.name, port.protocol] = service, port
    return list(found.values()), [f"no rows for {some(each)}: {why}" for why, each in silent.items()]


def _effort(cluster: Cluster, ports: Sequence[Port], vary: Sequence[Setting], asked: Asked) -> Effort | None:
    """How long it will take about; None if there is nothing to ask."""
    count: dict[str, int] = {}
    for each in cluster.state.endpoint_slices:
        name = f"{each.metadata.namespace}/{each.service_name}"
        count[name] = count.get(name, 0) + len(each.endpoints)
    rows = seconds = 0.0
    of_row, of_endpoint = _ROW_S, _ENDPOINT_S
    if is_worth_grouping(ports, cluster, asked):
        of_row, of_endpoint = _AKIN_ROW_S, _AKIN_ENDPOINT_S
    for service, port in ports:
        dialled = sum(1 for _ in frontends_of(cluster.state, service, port, asked))
        of_port = dialled * len(asked.nodes) * len(asked.clients)
        rows += of_port
        seconds += of_port * (of_row + of_endpoint * count.get(name_of(service), 0))
    combinations = prod(len(setting.values) for setting in vary)
    what = f"{rows:,.0f} rows in {combinations:,} variants" if vary else f"{rows:,.0f} rows"
    both = Setting.EXTERNAL in vary and Setting.INTERNAL in vary  # no frontend's clients meet both
    return Effort(seconds * combinations / (1 + both), what) if rows else None


# ------------------------------------------------------------------------------------------------------------------ notes


def _not_varied(ports: Sequence[Port], vary: Sequence[Setting]) -> Iterator[str]:
    for setting in vary:
        why: dict[str, dict[str, None]] = {}
        for service, _ in ports:
            if said := setting.why_not(service):
                why.setdefault(said, {})[name_of(service)] = None
        for said, names in why.items():
            yield f"{setting} is not varied for {some(list(names))}: {said}"


def _mute(found: Iterable[tuple[Sender, "Family", str]]) -> Iterator[str]:
    by_kind: dict[tuple[Sender, Family], list[str]] = {}
    for client, family, node in found:
        by_kind.setdefault((client, family), []).append(node)
    for (client, family), nodes in by_kind.items():
        yield f"no rows from {client} in {family.label} at {some(nodes)}: such a client has no address there"


def _undialled(cluster: Cluster, ports: Sequence[Port], asked: Asked) -> Iterator[str]:
    """Say where a load balancer of its own has no node port to dial."""
    names = {
        name_of(service): None
        for service, port in ports
        for each in frontends_of(cluster.state, service, port, asked)
        if each.proxied and not port.node_port
    }
    if names:
        yield f"no rows from outside for the load balancer of {some(list(names))}: it has ipMode Proxy, and there is no node port to dial"
