"""``kpsim trace``."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.options import BesideOption, FamilyName, Format, FormatOption, ModeOption, SysctlOption, path_given
from kpsim.cli.printing import go_on_without_reader, note
from kpsim.errors import InputError, Problem, UnsupportedRule
from kpsim.packetpath.chooser import MOST_WAYS

if TYPE_CHECKING:
    from kpsim.addresses import Family
    from kpsim.packet import Packet
    from kpsim.ruleset import Ruleset
    from kpsim.tracing.explain import Depth
    from kpsim.tracing.site import Site
    from kpsim.tracing.traces import Trace


@dataclass(frozen=True, slots=True)
class _SavedMachine:
    """The options that ``--rules`` needs: a machine, and how its saved rules are read."""

    rules: Path
    family: FamilyName | None
    node_ips: list[str]
    pod_cidrs: list[str]
    interfaces: list[str]
    sysctls: list[str]
    allow_unknown: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options that say which packets to trace. Exactly one of ``dst``, ``expression`` and ``capture`` is given."""

    dst: str
    src: str
    protocol: str
    expression: str
    capture: Path | None


@app.command(
    short_help="Follow a packet through the rules, and say why.",
    epilog="Example: kpsim trace cluster.yaml --node node-1 --from external --dst 192.168.0.2:30080 --expand. "
    "In answers to probes, `by` is the rule that decided: the one that rejected or dropped the packet; of a delivered packet, "
    "the one that sent it to its Service.",
)
def trace(
    cluster: Annotated[
        list[Path] | None,
        typer.Argument(metavar="CLUSTER", help="Manifests, or one recording.", show_default=False, parser=path_given),
    ] = None,
    node: Annotated[
        str, typer.Option("--node", metavar="NAME", help="The node that the packet meets first.", show_default=False)
    ] = "",
    sender: Annotated[
        str,
        typer.Option(
            "--from", metavar="SENDER", help="Who sends: pod or node (of that node), external, peer (another node)."
        ),
    ] = "external",
    src: Annotated[
        str, typer.Option("--src", metavar="IP[:PORT]", help="IP or IP:PORT; otherwise chosen.", show_default=False)
    ] = "",
    dst: Annotated[
        str, typer.Option("--dst", metavar="IP:PORT", help="IP:PORT; for ICMP the IP.", show_default=False)
    ] = "",
    protocol: Annotated[str, typer.Option("--protocol", metavar="NAME", help="TCP, UDP, SCTP or ICMP.")] = "TCP",
    packet: Annotated[
        str,
        typer.Option(
            "--packet",
            metavar="EXPR",
            help="A Scapy expression such as 'IP(dst=\"172.30.0.1\")/TCP(dport=80)'; nothing in it is executed.",
            show_default=False,
        ),
    ] = "",
    read_pcap: Annotated[
        Path | None,
        typer.Option(
            "--read-pcap",
            metavar="FILE",
            help="Trace each packet of a capture, in order.",
            show_default=False,
            parser=path_given,
        ),
    ] = None,
    probes: Annotated[
        Path | None,
        typer.Option(
            "--probes",
            metavar="FILE",
            help="Answer a file of probes, JSON lines (- reads them from stdin).",
            show_default=False,
            parser=path_given,
        ),
    ] = None,
    minimal: Annotated[bool, typer.Option("--minimal", help="One or two lines, for regression tests.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="The path: rules that matched (default).")] = False,
    detailed: Annotated[bool, typer.Option("--detailed", help="Also rules that did not match, and why.")] = False,
    expand: Annotated[bool, typer.Option("--expand", help="Every outcome with its exact odds.")] = False,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", metavar="N", help="Give up after so many ways of a packet through the rules.", min=1, max=10**9
        ),
    ] = MOST_WAYS,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of what the kernel draws.")] = 0,
    pcap: Annotated[
        Path | None,
        typer.Option(
            "--pcap", metavar="FILE", help="Write what each hop would have seen.", show_default=False, parser=path_given
        ),
    ] = None,
    mode: ModeOption = None,
    family: Annotated[
        FamilyName | None, typer.Option("--family", help="Of --rules, where addresses do not tell.", show_default=False)
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(
            "--rules",
            metavar="FILE",
            help="A saved ruleset (iptables-save) instead of a cluster.",
            show_default=False,
            parser=path_given,
        ),
    ] = None,
    node_ip: Annotated[
        list[str] | None,
        typer.Option("--node-ip", metavar="IP", help="With --rules: the machine's addresses.", show_default=False),
    ] = None,
    pod_cidr: Annotated[
        list[str] | None,
        typer.Option("--pod-cidr", metavar="CIDR", help="With --rules: its pods' networks.", show_default=False),
    ] = None,
    interface: Annotated[
        list[str] | None,
        typer.Option(
            "--interface",
            metavar="NAME[=IP,…]",
            help="With --rules: another interface, NAME=ADDRESS[,…]; NAME alone is where pod traffic comes in.",
            show_default=False,
        ),
    ] = None,
    allow_unknown: Annotated[
        bool,
        typer.Option(
            "--allow-unknown",
            help="With --rules: keep rules that are not modelled; packets that meet them end unknown.",
        ),
    ] = False,
    beside: BesideOption = None,
    sysctl: SysctlOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Follow a packet through the rules and say what becomes of it, and why."""
    depth = _depth(minimal, summary, detailed)
    if pcap is not None:
        from kpsim.outputs import check_file

        check_file(pcap)
        go_on_without_reader()
    asked = _Asked(dst, src, protocol, packet, read_pcap)
    if rules is None:
        _refuse(
            {"--node-ip": node_ip, "--pod-cidr": pod_cidr, "--interface": interface, "--allow-unknown": allow_unknown}
        )
        site, families, now_ns = _cluster(cluster or [], mode, beside or [], sysctl or [])
    else:
        if beside:
            raise InputError("--rules are all rules of the machine: --beside goes with a cluster")
        if cluster:
            raise InputError(f"give either a cluster ({cluster[0]}) or --rules, not both")
        machine = _SavedMachine(
            rules, family, node_ip or [], pod_cidr or [], interface or [], sysctl or [], allow_unknown
        )
        site, families, now_ns = _saved(machine, dst)
    sources = {"--dst": dst, "--packet": packet, "--read-pcap": read_pcap, "--probes": probes}
    given = [name for name, value in sources.items() if value]
    if len(given) != 1:
        raise InputError(f"give one of {', '.join(sources)}" + (f", not {' and '.join(given)}" if given else ""))
    if probes is not None:
        _answer_probes(probes, site, families, now_ns, limit)
        return
    if not node and site.node_names:
        raise InputError(f"--node is missing; there is {', '.join(site.node_names[:5])}")
    traced: list[Trace] = []
    for numbered in _packets(asked, families, now_ns):
        traced.append(
            _trace(numbered, site, node or "node", sender, seed, expand, commit=read_pcap is not None, limit=limit)
        )
        _show(traced[-1], depth, format, first=len(traced) == 1)
    if pcap is not None:
        from kpsim.wire import write_pcap

        write_pcap(pcap, [sighting for each in traced for sighting in each.sightings()])


def _depth(minimal: bool, summary: bool, detailed: bool) -> "Depth":
    from kpsim.tracing.explain import Depth

    wanted = [depth for depth, asked in zip(Depth, (minimal, summary, detailed), strict=True) if asked]
    if len(wanted) > 1:
        raise InputError(f"--{wanted[0]} and --{wanted[1]} exclude each other")
    return wanted[0] if wanted else Depth.SUMMARY


def _refuse(options: dict[str, object]) -> None:
    for name, value in options.items():
        if value:
            raise InputError(f"{name} goes with --rules only")


def _cluster(
    paths: list[Path], mode: ModeOption, beside: list[str], sysctls: list[str]
) -> "tuple[Site, tuple[Family, ...], int]":
    from kpsim.explore import load
    from kpsim.sysctls import assignments

    if not paths:
        raise InputError("give a cluster (manifests or a recording), or --rules FILE")
    loaded = load(paths, mode=mode, beside=beside, sysctls=assignments(sysctls))
    loaded.print_notes(note)
    return loaded.site, loaded.families, loaded.now_ns


def _saved(machine: _SavedMachine, dst: str) -> "tuple[Site, tuple[Family, ...], int]":
    from kpsim.config import HostInterface
    from kpsim.explore.site import rules_site
    from kpsim.replay import START_NS
    from kpsim.sysctls import assignments

    ruleset = _read_rules(machine, dst)
    devices = []
    for text in machine.interfaces:
        name, _, addresses = text.partition("=")
        devices.append(HostInterface(name, tuple(part for part in addresses.split(",") if part)))
    if not ruleset.tables:
        note(f"there is no table in {machine.rules}: every packet passes")
    if not machine.node_ips:
        note("without --node-ip only loopback addresses are the machine's own")
    site = rules_site(
        ruleset,
        node_ips=machine.node_ips,
        pod_cidrs=machine.pod_cidrs,
        interfaces=devices,
        sysctls=assignments(machine.sysctls),
    )
    return site, (ruleset.family,), START_NS


def _read_rules(machine: _SavedMachine, dst: str) -> "Ruleset":
    """Return the saved rules of one family: the one asked for, else that of the text, else that of ``dst``."""
    from kpsim.dialects import dialect_reading
    from kpsim.inputs import read_text, shown_name

    text, file = read_text(machine.rules), shown_name(machine.rules)
    dialect = dialect_reading(text)
    if machine.family:
        known = machine.family.family
    else:
        held = dialect.families(text, file=file)
        if len(held) > 1 and not dst:
            raise InputError(Problem("rules of both families: --family says which", file=file))
        known = held[0] if len(held) == 1 else _family_of_destination(dst)
    try:
        [ruleset] = dialect.parse(text, known, file=file, unknown="keep" if machine.allow_unknown else "refuse")
    except UnsupportedRule as error:
        way_out = Problem("--allow-unknown keeps such rules; packets that meet one end unknown")
        raise InputError([*error.problems, way_out]) from error
    return ruleset


def _family_of_destination(dst: str) -> "Family":
    """Return the family of ``IP:port``, or IPv4 if there is none."""
    from kpsim.addresses import Family

    return Family.IPV6 if dst.count(":") > 1 else Family.IPV4


def _answer_probes(path: Path, site: "Site", families: "tuple[Family, ...]", now_ns: int, limit: int) -> None:
    from kpsim.bulk import without_collector
    from kpsim.inputs import read_text, shown_name
    from kpsim.tracing.probes import Prober, parse_probes

    found = parse_probes(read_text(path).split("\n"), site, file=shown_name(path), families=families)
    with without_collector():
        for line in Prober(site, now_ns, limit=limit).lines(found):
            typer.echo(line)


def _packets(asked: _Asked, families: "tuple[Family, ...]", start_ns: int) -> "Iterator[tuple[int, int, Packet]]":
    """Yield number, time and packet of everything to trace."""
    from kpsim.tracing.probes import check_family, first_packet

    if asked.capture is not None:
        from kpsim.wire import read_pcap

        captured = read_pcap(asked.capture)
        for each in captured:
            if each.packet is None or each.packet.family not in families:
                why = (
                    each.refusal or f"{each.packet.family.label if each.packet else ''} is not among the families here"
                )
                note(f"packet {each.number} of {asked.capture}: {why}")
            else:
                yield each.number, start_ns + each.time_ns - captured[0].time_ns, each.packet
        return
    if asked.expression:
        from kpsim.wire import parse_packet

        packet = parse_packet(asked.expression)
    else:
        packet = first_packet(asked.dst, src=asked.src, protocol=asked.protocol)
    check_family(packet.family, families)
    yield 0, start_ns, packet


def _trace(
    numbered: "tuple[int, int, Packet]",
    site: "Site",
    node: str,
    sender: str,
    seed: int,
    expand: bool,
    *,
    commit: bool,
    limit: int,
) -> "Trace":
    from kpsim.tracing.probes import sender_of
    from kpsim.tracing.traces import trace_packet

    number, now_ns, packet = numbered
    return trace_packet(
        site, packet, node=node, sender=sender_of(sender), seed=seed, flow=number, expand=expand, commit=commit,
        now_ns=now_ns, limit=limit,
    )  # fmt: skip


def _show(traced: "Trace", depth: "Depth", format: Format, *, first: bool) -> None:
    from kpsim.tracing.explain import Depth

    if format is Format.JSON:
        typer.echo(json.dumps(traced.to_json(), separators=(",", ":"), ensure_ascii=False))
        return
    if not first and depth is not Depth.MINIMAL:
        typer.echo("")
    typer.echo(traced.text(depth))
