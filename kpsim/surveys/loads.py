"""How a frontend's traffic spreads over the endpoints, if every node that it may come in by gets the same part of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kpsim.addresses import Family
from kpsim.reports.columns import Column
from kpsim.surveys.rows import Reached, Row
from kpsim.surveys.settings import Setting
from kpsim.tracing.names import Via
from kpsim.tracing.site import Sender


@dataclass(frozen=True, slots=True)
class Load:
    """What one endpoint gets of the requests of one kind of client to one frontend."""

    service: str
    port_name: str
    protocol: str
    frontend: Via
    address: str  #: empty for node ports: those of all nodes together
    family: Family
    client: Sender
    values: Mapping[Setting, str]
    endpoint: Reached  #: its ``odds`` are those of one request
    even: Fraction  #: that share if every endpoint got the same

    @property
    def share(self) -> Fraction:
        return self.endpoint.odds

    def to_json(self) -> dict[str, Any]:
        exact = {"share": str(self.share), "of_even": str(self.of_even) if self.even else None}
        return {column.name: column.read(self) for column in LOAD_COLUMNS} | exact

    @property
    def of_even(self) -> Fraction | None:
        """The share in relation to an even one; None if nobody gets anything."""
        return self.share / self.even if self.even else None


def _setting_column(setting: Setting) -> Column[Load]:
    return Column(str(setting), "str", "", "in force; empty: the Service has none", lambda r: r.values[setting])


LOAD_COLUMNS: tuple[Column[Load], ...] = (
    Column("service", "str", "", "namespace/name", lambda r: r.service),
    Column("port_name", "str", "", "name of the Service port; empty: it has none", lambda r: r.port_name),
    Column("protocol", "str", "", "TCP, UDP or SCTP", lambda r: r.protocol),
    Column("frontend", "str", "", "clusterIP, externalIP, loadBalancer or nodePort", lambda r: str(r.frontend)),
    Column("address", "str", "", "address that is dialled; empty: node ports of all nodes", lambda r: r.address),
    Column("family", "str", "", "IPv4 or IPv6", lambda r: r.family.label),
    Column("client", "str", "", "pod, node (a process there), external, peer (another node)", lambda r: str(r.client)),
    *map(_setting_column, Setting),
    Column("endpoint", "str", "", "ip:port", lambda r: r.endpoint.endpoint),
    Column("node", "str", "", "the endpoint's node; empty: it is not known", lambda r: r.endpoint.node),
    Column("zone", "str", "", "its zone; empty: it is not known", lambda r: r.endpoint.zone),
    Column("share", "float64", "", "of the requests, if every node gets equally many", lambda r: float(r.share)),
    Column("of_even", "float64", "", "the share in relation to an even one; missing: nobody gets any", lambda r: None if r.of_even is None else float(r.of_even)),
)  # fmt: skip


def loads(rows: Iterable[Row]) -> Iterator[Load]:
    """The loads of all endpoints that some row reaches. Nodes that a load balancer does not send to get nothing."""
    ports: dict[tuple[Any, ...], dict[str, Reached]] = {}
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        port = row.service, row.port_name, row.protocol, row.family
        known = ports.setdefault(port, {})
        for each in row.reached:
            known.setdefault(each.endpoint, each)
        if row.in_rotation is not False:
            address = "" if row.frontend is Via.NODE_PORT else row.address
            groups.setdefault((port, row.frontend, address, row.client, tuple(row.values.values())), []).append(row)
    for (port, frontend, address, client, _), group in groups.items():
        shares: dict[str, Fraction] = {}
        for row in group:
            for each in row.reached:
                shares[each.endpoint] = shares.get(each.endpoint, Fraction(0)) + each.odds / len(group)
        service, port_name, protocol, family = port
        even = sum(shares.values(), Fraction(0)) / max(1, len(ports[port]))
        for name, each in sorted(ports[port].items()):
            at = each._replace(odds=shares.get(name, Fraction(0)))
            yield Load(service, port_name, protocol, frontend, address, family, client, group[0].values, at, even)
