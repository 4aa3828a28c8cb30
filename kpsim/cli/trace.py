"""``kpsim trace``."""

import enum
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from kpsim.cli import app
from kpsim.cli.asked import Asked, Start, traces
from kpsim.cli.completion import complete_destination, complete_node, complete_sender, complete_service
from kpsim.cli.named import NamedService, client_of, service_among, service_named, show_ways, with_addresses
from kpsim.cli.options import (
    AssumeNodeOption,
    BesideOption,
    ClusterCommand,
    DeriveSlicesOption,
    EditOption,
    FamilyName,
    Format,
    FormatOption,
    ModeOption,
    NodePortRangeOption,
    SysctlOption,
    path_given,
    way_out,
)
from kpsim.cli.printing import go_on_without_reader, note
from kpsim.errors import InputError
from kpsim.packetpath.chooser import MOST_WAYS
from kpsim.valueclass import dataclass

if TYPE_CHECKING:
    from kpsim.addresses import Family
    from kpsim.explore.observed import Observed
    from kpsim.programmed import Programmed
    from kpsim.tracing.explain import Depth
    from kpsim.tracing.names import Names
    from kpsim.tracing.site import Site
    from kpsim.tracing.traces import Trace


@dataclass(frozen=True, slots=True)
class _SavedMachine:
    """The options that ``--rules`` needs: a machine, and how its saved rules are read."""

    rules: list[Path]
    family: FamilyName | None
    node_ips: list[str]
    pod_cidrs: list[str]
    interfaces: list[str]
    sysctls: list[str]
    allow_unknown: bool
    observed: bool  #: whether its interfaces were listed, so their addresses are known


@dataclass(frozen=True, slots=True)
class _Assumptions:
    """The options that say something about a cluster beside its manifests, or change it."""

    node: str | None
    port_range: str
    allow_unknown: bool
    edits: list[str]
    derive_slices: bool


class ViaName(enum.StrEnum):
    """The values of ``--via``."""

    CLUSTER_IP = "clusterIP"
    EXTERNAL_IP = "externalIP"
    LOAD_BALANCER = "lb"
    NODE_PORT = "nodePort"
    ALL = "all"


class _Machines(NamedTuple):
    """The machines that are asked. ``own`` is the node that is meant if none is named."""

    site: "Site"
    families: "tuple[Family, ...]"
    now_ns: int
    names: "Names"
    own: str = ""


@app.command(
    cls=ClusterCommand,
    short_help="Follow a packet through the rules, and say why.",
    epilog="Examples: kpsim trace cluster.yaml shop/web:http --from pod/shop/client. kpsim trace cluster.yaml shop/web:http --via all. "
    "kpsim trace cluster.yaml --node node-1 --from external --dst 192.168.0.2:30080 --expand. "
    "In answers to probes, `by` is the rule that decided: the one that rejected or dropped the packet; of a delivered packet, "
    "the one that sent it to its Service. `exchange` has the odds that the sender gets an answer.",
)
def trace(
    context: typer.Context,
    cluster: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CLUSTER [SERVICE]",
            help="Manifests, or one recording; then what is dialled, if it is a Service: NAMESPACE/NAME:PORT.",
            show_default=False,
            parser=path_given,
            autocompletion=complete_service,
        ),
    ] = None,
    node: Annotated[
        str,
        typer.Option(
            "--node",
            metavar="NAME",
            help="The node that the packet meets first.",
            show_default=False,
            autocompletion=complete_node,
        ),
    ] = "",
    sender: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SENDER",
            help="Who sends: pod or node (of that node), external, peer (another node), pod/NAMESPACE/NAME, node/NAME. "
            "Otherwise external; of a Service that is reached from inside only, pod.",
            show_default=False,
            autocompletion=complete_sender,
        ),
    ] = "",
    via: Annotated[
        ViaName | None,
        typer.Option(
            "--via",
            help="By which address of a Service; otherwise the one that such a client uses.",
            show_default=False,
        ),
    ] = None,
    src: Annotated[
        str, typer.Option("--src", metavar="IP[:PORT]", help="IP or IP:PORT; otherwise chosen.", show_default=False)
    ] = "",
    dst: Annotated[
        str,
        typer.Option(
            "--dst",
            metavar="IP:PORT",
            help="IP:PORT, for ICMP the IP; also NAMESPACE/NAME:PORT of a Service, pod/NAMESPACE/NAME:PORT, node/NAME:PORT.",
            show_default=False,
            autocompletion=complete_destination,
        ),
    ] = "",
    protocol: Annotated[str, typer.Option("--protocol", metavar="NAME", help="TCP, UDP, SCTP or ICMP.")] = "TCP",
    uid: Annotated[
        int | None,
        typer.Option(
            "--uid", metavar="N", help="With --from node: the sender's user, for -m owner (0).", show_default=False
        ),
    ] = None,
    gid: Annotated[
        int | None,
        typer.Option("--gid", metavar="N", help="With --from node: the sender's group (0).", show_default=False),
    ] = None,
    dscp: Annotated[
        int | None,
        typer.Option(
            "--dscp", metavar="N", help="The packet's DSCP, for rules that ask for it (0).", show_default=False
        ),
    ] = None,
    packet: Annotated[
        list[str] | None,
        typer.Option(
            "--packet",
            metavar="EXPR",
            help="A Scapy expression such as 'IP(dst=\"172.30.0.1\")/TCP(dport=80)'; nothing in it is executed. "
            "May be repeated: the packets come one after another, as in a capture.",
            show_default=False,
        ),
    ] = None,
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
    partial: Annotated[
        bool, typer.Option("--partial", help="Of a damaged capture, trace the packets before the damage.")
    ] = False,
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
    minimal: Annotated[bool, typer.Option("--minimal", help="A few lines, for regression tests.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="The path: rules that matched (default).")] = False,
    detailed: Annotated[
        bool, typer.Option("--detailed", help="Also rules that did not match, and why, and the way back.")
    ] = False,
    expand: Annotated[
        bool, typer.Option("--expand", help="Every outcome with its exact odds, to its end and back to the sender.")
    ] = False,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", metavar="N", help="Give up after so many ways of a packet through the rules.", min=1, max=10**9
        ),
    ] = MOST_WAYS,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Of what the kernel draws.", min=-(2**63), max=2**63 - 1)
    ] = 0,
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
        list[Path] | None,
        typer.Option(
            "--rules",
            metavar="FILE",
            help="Saved rules (iptables-save, nft list ruleset) instead of a cluster. May be repeated, once for each family or table.",
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
    network: Annotated[
        list[Path] | None,
        typer.Option(
            "--network",
            metavar="FILE",
            help="Of --node: the output of ip addr, ip route show table all, ip rule, ss -lntup, in one file or several.",
            show_default=False,
            parser=path_given,
        ),
    ] = None,
    in_interface: Annotated[
        str,
        typer.Option(
            "--in-interface",
            metavar="NAME",
            help="The interface of --node by which packets from outside come in.",
            show_default=False,
        ),
    ] = "",
    conntrack: Annotated[
        list[Path] | None,
        typer.Option(
            "--conntrack",
            metavar="FILE",
            help="Connections of --node: the output of conntrack -L, or /proc/net/nf_conntrack. May be repeated.",
            show_default=False,
            parser=path_given,
        ),
    ] = None,
    allow_unknown: Annotated[
        bool,
        typer.Option(
            "--allow-unknown",
            help="With --rules and --beside: keep what is not modelled; packets whose end depends on it end unknown.",
        ),
    ] = False,
    beside: BesideOption = None,
    sysctl: SysctlOption = None,
    assume_node: AssumeNodeOption = None,
    service_node_port_range: NodePortRangeOption = "",
    set_: EditOption = None,
    derive_slices: DeriveSlicesOption = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Follow a packet through the rules and say what becomes of it, and why."""
    depth = _depth(minimal, summary, detailed)
    files, service = service_among(cluster or [])
    named = service or service_named(dst)
    _begin(context, pcap, service=named)
    asked = Asked(dst, src, protocol, packet or [], read_pcap, partial, uid, gid, dscp)
    observed = _observed(network or [])
    if not rules:
        _refuse({"--node-ip": node_ip, "--pod-cidr": pod_cidr, "--interface": interface})
        assumed = _Assumptions(assume_node, service_node_port_range, allow_unknown, set_ or [], derive_slices)
        machines = _cluster(files, mode, beside or [], sysctl or [], assumed)
    else:
        if beside:
            raise InputError("--rules are all rules of the machine: --beside goes with a cluster")
        if assume_node is not None or service_node_port_range or set_ or derive_slices:
            raise InputError("--assume-node, --service-node-port-range, --set and --derive-slices go with a cluster")
        if files:
            raise InputError(f"give either a cluster ({files[0]}) or --rules, not both")
        machine = _SavedMachine(
            rules, family, node_ip or [], pod_cidr or [], interface or [], sysctl or [], allow_unknown,
            observed=observed is not None and bool(observed.interfaces),
        )  # fmt: skip
        machines = _saved(machine, dst)
    site = machines.site
    sources = {"--dst": dst, "--packet": packet, "--read-pcap": read_pcap, "--probes": probes}
    if service:
        sources["a Service"] = service
    given = [name for name, value in sources.items() if value]
    if len(given) != 1:
        ways = f"{', '.join(sources)}" + ("" if service else ", or after the files a Service, NAMESPACE/NAME:PORT")
        raise InputError(f"give one of {ways}" + (f", not {' and '.join(given)}" if given else ""))
    client = client_of(machines.names, sender, node, named)
    node = client.node or ("" if named else machines.own)
    machine_asked = node or ("" if site.node_names else "node")
    _observe(site, machine_asked, observed, in_interface)
    _remember(site, machine_asked, conntrack or [], machines.now_ns)
    if probes is not None:
        asked.refuse_sender("--probes")
        _answer_probes(probes, machines, limit)
        return
    if not node and not named and site.node_names:
        raise InputError(f"--node is missing; there is {', '.join(site.node_names[:5])}")
    families = (family.family,) if family and not rules else machines.families
    start = Start(site, families, node or "node", client.sender, machines.now_ns, seed=seed, expand=expand, limit=limit)
    traced: list[Trace] = []
    if named:
        every = minimal or summary or detailed or pcap is not None
        traced += show_ways(
            NamedService(named, client, via or "", asked), machines.names, start, depth, format, every=every
        )
    else:
        for each in traces(with_addresses(asked, client, machines.names, families), start):
            traced.append(each)
            _show(each, depth, format, first=len(traced) == 1)
    if pcap is not None:
        from kpsim.wire import write_pcap

        write_pcap(pcap, [sighting for each in traced for sighting in each.sightings()])


def _observed(network: list[Path]) -> "Observed | None":
    """Return the interfaces, routes, policy rules and sockets that a machine's own tools tell; None: they were not asked."""
    from kpsim.explore.observed import read_observed

    return read_observed(network) if network else None


def _observe(site: "Site", node: str, observed: "Observed | None", in_interface: str) -> None:
    """Gives a node what its own tools tell."""
    from kpsim.explore.observed import applied

    if observed is None and not in_interface:
        return
    if not node:
        raise InputError("--network and --in-interface need --node, the machine that they are about")
    site.check_node(node)
    if observed is not None:
        with _of_option("--network"):
            site.place(node, applied(site.machine(node), observed))
    if in_interface:
        with _of_option("--in-interface"):
            site.let_in(node, in_interface)


@contextmanager
def _of_option(name: str) -> Iterator[None]:
    """Adds to an error which option it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(
            [replace(problem, message=f"{name}: {problem.message}") for problem in error.problems]
        ) from error


def _remember(site: "Site", node: str, listed: list[Path], now_ns: int) -> None:
    """Gives a node the connections that conntrack lists."""
    from kpsim.explore.connections import read_connections

    if listed and not node:
        raise InputError("--conntrack needs --node, the machine whose connections it lists")
    for path in listed:
        site.check_node(node)
        found = read_connections(path, now_ns)
        for text in found.notes:
            note(text)
        site.remember(node, found.entries)


def _begin(context: typer.Context, pcap: Path | None, service: str) -> None:
    """Say which options have no effect, and make sure that the capture can be written."""
    from kpsim.cli.unused import notes
    from kpsim.outputs import check_file

    of_service = {"service": service, "cluster": None} if service else {}
    for text in notes(context, **of_service):
        note(text)
    if pcap is not None:
        check_file(pcap)
        go_on_without_reader()


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
    paths: list[Path], mode: ModeOption, beside: list[str], sysctls: list[str], assumed: _Assumptions
) -> _Machines:
    from kpsim.explore import load
    from kpsim.sysctls import assignments
    from kpsim.tracing.names import Names

    if not paths:
        raise InputError("give a cluster (manifests or a recording), or --rules FILE")
    if assumed.allow_unknown and not beside:
        raise InputError("--allow-unknown goes with --rules or --beside")
    with way_out():
        loaded = load(
            paths,
            mode=mode,
            beside=beside,
            sysctls=assignments(sysctls),
            assume_node=assumed.node,
            service_node_port_range=assumed.port_range,
            unknown="keep" if assumed.allow_unknown else "refuse",
            derive_slices=assumed.derive_slices,
            edits=assumed.edits,
        )
    loaded.print_notes(note)
    own = loaded.config.hostname_override if assumed.node is None else loaded.default_node(assumed.node)
    return _Machines(loaded.site, loaded.families, loaded.now_ns, Names(loaded.state, loaded.site), own)


def _saved(machine: _SavedMachine, dst: str) -> _Machines:
    from kpsim.cluster import ClusterState
    from kpsim.config import HostInterface
    from kpsim.explore.local_addresses import unmodelled, with_local_addresses
    from kpsim.explore.site import rules_site
    from kpsim.nodes import node_address, pod_network
    from kpsim.replay import START_NS
    from kpsim.sysctls import assignments
    from kpsim.tracing.names import Names

    _each_read("--node-ip", node_address, machine.node_ips)
    _each_read("--pod-cidr", pod_network, machine.pod_cidrs)
    for device in machine.interfaces:
        _each_read("--interface", node_address, [part for part in device.partition("=")[2].split(",") if part])
    programmed = _read_saved(machine, dst)
    devices = []
    for text in machine.interfaces:
        name, _, addresses = text.partition("=")
        devices.append(HostInterface(name, tuple(part for part in addresses.split(",") if part)))
    if not machine.observed:
        own = (*machine.node_ips, *(address for device in devices for address in device.addresses))
        programmed = with_local_addresses(programmed, own, note)
    for text in unmodelled(programmed):
        note(text)
    if not any(each.ruleset.tables or each.virtual_servers for each in programmed):
        files = " and ".join(map(str, machine.rules))
        note(f"there is no table in {files}: every packet passes")
    if not machine.node_ips:
        note("without --node-ip only loopback addresses are the machine's own")
    site = rules_site(
        *programmed,
        node_ips=machine.node_ips,
        pod_cidrs=machine.pod_cidrs,
        interfaces=devices,
        sysctls=assignments(machine.sysctls),
    )
    return _Machines(site, tuple(each.family for each in programmed), START_NS, Names(ClusterState(), site))


def _each_read(option: str, read: Callable[[str], object], texts: Iterable[str]) -> None:
    """Raise an InputError that names the option, if one of its texts cannot be read."""
    for text in texts:
        with _of_option(option):
            read(text)


def _read_saved(machine: _SavedMachine, dst: str) -> "tuple[Programmed, ...]":
    """Return what the machine's tools saved, one value for each family: the one asked for, else all in the files."""
    from kpsim.explore.saved import read_machine

    wanted = machine.family.family if machine.family else None
    with way_out():
        return read_machine(
            machine.rules, wanted, _family_of_destination(dst), unknown="keep" if machine.allow_unknown else "refuse"
        )


def _family_of_destination(dst: str) -> "Family":
    """Return the family of ``IP:port``, or IPv4 if there is none."""
    from kpsim.addresses import Family

    return Family.IPV6 if dst.count(":") > 1 else Family.IPV4


def _answer_probes(path: Path, machines: _Machines, limit: int) -> None:
    from kpsim.bulk import without_collector
    from kpsim.inputs import read_text, shown_name
    from kpsim.tracing.probes import Prober, parse_probes

    found = parse_probes(
        read_text(path).split("\n"), machines.site, file=shown_name(path), families=machines.families,
        addressed=lambda record: machines.names.probe(record, machines.families),
    )  # fmt: skip
    with without_collector():
        for line in Prober(machines.site, machines.now_ns, limit=limit).lines(found):
            typer.echo(line)


def _show(traced: "Trace", depth: "Depth", format: Format, *, first: bool) -> None:
    from kpsim.tracing.explain import Depth

    if format is Format.JSON:
        typer.echo(json.dumps(traced.to_json(), separators=(",", ":"), ensure_ascii=False))
        return
    if not first and depth is not Depth.MINIMAL:
        typer.echo("")
    typer.echo(traced.text(depth))
