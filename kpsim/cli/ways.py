"""The table of ``kpsim trace`` of a Service: every way to it, from every node, and who gets the request."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kpsim.addresses import format_ip, join_host_port, parse_ip
from kpsim.cli.printing import console, plain_console
from kpsim.exchange import Verdict
from kpsim.tracing.names import Via, Way
from kpsim.tracing.outcomes import ExchangeOutcome
from kpsim.tracing.site import Site
from kpsim.tracing.traces import Trace

_MANY = 4  #: nodes that say the same share a row if they are so many
_NAMED = 4  #: of them are named
_NARROW = 110  #: columns of a terminal that a table needs


class _Row(NamedTuple):
    """A row of the table. ``alike``: what it says, without the names and addresses of the node at which the packet is met."""

    cells: tuple[str, ...]
    node: str
    alike: tuple[str, ...]


def print_table(traced: Sequence[tuple[Way, Trace]], site: Site) -> None:
    """Print what becomes of each way's exchanges, over all nodes and with exact odds. Many nodes that say the same share a row.

    On a narrow terminal each row is a paragraph.
    """
    typer.echo(f"{traced[0][0].service}, dialled in {len(traced)} ways")
    found = [_row(way, each, site) for way, each in traced]
    shared = {alike for alike, number in Counter(row.alike for row in found).items() if number >= _MANY}
    rows = [row.cells for row in found if row.alike not in shared]
    for alike in dict.fromkeys(row.alike for row in found if row.alike in shared):
        dialled, sender, verdict, who, source = alike
        at = _listed([each.node for each in found if each.alike == alike])
        rows.append((dialled, sender, at, verdict, who, source))
    out = console() or plain_console()
    if out.width < _NARROW:
        for row in rows:
            _print_paragraph(row, out)
    else:
        table = Table()
        for name in ("dialled", "from", "at", "exchange", "who gets the request", "with the source"):
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*row)
        out.print(table)
    if shared:
        typer.echo("Nodes that say the same share a row; --node NAME tells one alone.")


def _listed(nodes: Sequence[str]) -> str:
    more = [f"and {len(nodes) - _NAMED:,} more"] if len(nodes) > _NAMED + 1 else []
    return "\n".join([*(nodes[:_NAMED] if more else nodes), *more])


def _print_paragraph(row: tuple[str, ...], out: Console) -> None:
    dialled, sender, at, verdict, who, source = row
    head = f"{dialled} from {sender} at {', '.join(at.splitlines())}: {verdict}".replace(", and ", " and ")
    out.print(Text(head), soft_wrap=True)
    for line in [*who.splitlines(), *([f"with the source {', '.join(source.splitlines())}"] if source else [])]:
        out.print(Text(f"    {line}"), soft_wrap=True)


def _row(way: Way, traced: Trace, site: Site) -> _Row:
    source = f" {way.packet.source}" if way.packet.saddr else ""
    ends = [(weight, *_end(outcome, site)) for weight, outcome in traced.outcomes]
    who = "\n".join(who if weight == 1 else f"{weight} {who}" for weight, who, _ in ends)
    seen = list(dict.fromkeys(seen for _, _, seen in ends))
    cells = (
        f"{way.via.words} {way.dialled}", f"{way.sender}{source}", way.node, str(traced.verdict), who, "\n".join(seen),
    )  # fmt: skip
    dialled = f"node port {way.packet.dport} of the node" if way.via is Via.NODE_PORT else cells[0]
    if cells[3] != Verdict.WORKS.value:
        links = site.machine(way.node).routing.interfaces.values()
        own = [way.node, *(format_ip(each.family, each.value) for link in links for each in link.addresses)]
        who = re.sub(rf"(?<![\w.:-])(?:{'|'.join(map(re.escape, own))})(?![\w-]|[.:]\w)", "the node", who)
    kept = "\n".join(dict.fromkeys(each.partition(" ")[0] for each in seen))
    return _Row(cells, way.node, (dialled, cells[1], cells[3], who, kept))


def say_passed_over(nodes: Sequence[str]) -> None:
    """Say which nodes get nothing from a load balancer."""
    if nodes:
        more = f" and {len(nodes) - _NAMED:,} more" if len(nodes) > _NAMED else ""
        typer.echo(
            f"Its load balancer sends nothing to {', '.join(nodes[:_NAMED])}{more}: the health check fails there, or they are excluded."
        )


def _end(outcome: ExchangeOutcome, site: Site) -> tuple[str, str]:
    """Who gets the request, and with which source. If no endpoint gets it: what the client gets."""
    seen = outcome.seen
    gets = "" if outcome.verdict is Verdict.WORKS else f"the client gets {outcome.client}"
    if seen is None:
        return f"nobody; {gets}", ""
    address = parse_ip(seen.dst)
    name = site.directory.name(address) if address is not None else ""
    who = join_host_port(seen.dst, seen.dport) + (f" ({name})" if name else "")
    return f"{who}; {gets}" if gets else who, f"{'masqueraded' if outcome.masquerade else 'kept'} {seen.src}"
