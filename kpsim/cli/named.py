"""``kpsim trace`` of a Service by its name: every way of a client to it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kpsim.cli.asked import Asked, Start
from kpsim.cli.options import Format
from kpsim.cli.printing import note
from kpsim.errors import InputError

if TYPE_CHECKING:
    from kpsim.addresses import Family
    from kpsim.tracing.explain import Depth
    from kpsim.tracing.names import Client, Names, Way
    from kpsim.tracing.traces import Trace


@dataclass(frozen=True, slots=True)
class NamedService:
    """Which ways to a Service to show. ``via`` empty: those that such a client uses; ``all``: every one."""

    name: str  #: ``namespace/name`` or ``namespace/name:port``
    client: "Client"
    via: str
    asked: Asked


def service_among(arguments: list[Path]) -> tuple[list[Path], str]:
    """Return the files among a command's arguments, and the Service that the last argument names; empty: none.

    InputError if the last of several arguments is neither a file nor of the form of a Service's name.
    """
    if not arguments or arguments[-1].exists() or (last := str(arguments[-1])) == "-":
        return arguments, ""
    if service_named(last):
        return arguments[:-1], last
    if len(arguments) > 1 and "/" not in last and "\\" not in last:
        raise InputError(f"{last}: there is no such file, and a Service is named NAMESPACE/NAME or NAMESPACE/NAME:PORT")
    return arguments, ""


def service_named(text: str) -> str:
    """Return the text if it has the form of a Service's name, else nothing."""
    if "/" not in text:
        return ""
    from kpsim.tracing.names import names_service

    return text if names_service(text) else ""


def client_of(names: "Names", sender: str, node: str, service: str) -> "Client":
    """Return the client, on ``node`` if one is given. Without a sender it is the one that the Service is meant for.

    InputError for an unknown one, or if a pod runs elsewhere.
    """
    if sender or not service:
        return names.placed(sender or "external", node)
    return names.usual_client(service)._replace(node=node)


def with_addresses(asked: Asked, client: "Client", names: "Names", families: "tuple[Family, ...]") -> Asked:
    """Return the question with addresses for the names of pods and nodes in it."""
    from kpsim.addresses import parse_ip
    from kpsim.tracing.names import names_machine
    from kpsim.tracing.probes import split_end

    dst = names.end(asked.dst, families) if names_machine(asked.dst) else asked.dst
    if not client.addresses or not dst:
        return replace(asked, dst=dst)
    if asked.src:
        raise InputError("--src goes with a kind of sender: a pod that --from names has its own address")
    dialled = parse_ip(split_end(dst)[0])
    return replace(asked, dst=dst, src=client.address(dialled[0]) if dialled is not None else "")


def show_ways(
    asked: NamedService, names: "Names", start: Start, depth: "Depth", format: Format, *, every: bool
) -> "list[Trace]":
    """Print every way that was asked for, and return the traces.

    Several ways are a table with exact odds; with ``every`` each is explained. JSON has a line for each.
    """
    if asked.asked.src:
        raise InputError("--src goes with --dst IP:PORT; the client of a Service is named: --from pod/NAMESPACE/NAME")
    if said := names.answered_by_dns(asked.name):
        typer.echo(json.dumps({"asked": {"service": asked.name}, "dns": said}) if format is Format.JSON else said)
        return []
    ways = names.ways(asked.name, asked.client, asked.via, start.families)
    if not ways:
        note(f"no packet of such a client comes to a node: the load balancer of {asked.name} has none in rotation")
    if format is Format.TEXT and not every and len(ways) > 1:
        from kpsim.cli.ways import print_table, say_passed_over

        print_table([(way, _trace(way, replace(start, expand=True), asked.asked)) for way in ways], start.site)
        if not asked.client.node and asked.client.outside and any(way.via == "loadBalancer" for way in ways):
            say_passed_over(names.not_in_rotation(asked.name, start.families))
        return []
    found = []
    for way in ways:
        found.append(traced := _trace(way, start, asked.asked))
        if format is Format.JSON:
            line = {"asked": way.to_json()} | traced.to_json()
            typer.echo(json.dumps(line, separators=(",", ":"), ensure_ascii=False))
        else:
            typer.echo(f"# {way.service} by its {way.via.words} {way.dialled}, from {way.sender}, at {way.node}")
            typer.echo(traced.text(depth))
    return found


def _trace(way: "Way", start: Start, asked: Asked) -> "Trace":
    from kpsim.tracing.probes import made_by, set_dscp
    from kpsim.tracing.traces import trace_packet

    made_by(way.packet, way.sender, asked.uid, asked.gid)
    set_dscp(way.packet, asked.dscp)
    return trace_packet(
        start.site, way.packet, node=way.node, sender=way.sender, seed=start.seed, expand=start.expand,
        now_ns=start.now_ns, limit=start.limit, any_port=True,
    )  # fmt: skip
