"""Puts the assessment of a change of mode into sentences, for the person who has to decide."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from kpsim.comparison.behaviour.spaces import Values
from kpsim.migration.assessment import Migration
from kpsim.migration.blocks import Block, Code, Heading, Items, Page, Paragraph, Section, Table
from kpsim.migration.differences import Client, Effect, Group, Row
from kpsim.migration.facts import Severity
from kpsim.migration.neighbours import Neighbour
from kpsim.migration.nodes import NodeReport

MOST_NAMES = 6  #: that a sentence lists
MOST_ROWS = 40  #: of a table
MOST_PORT = 65_535
_NEARLY_ALL = 0.75  #: share of a family's addresses: what is left is multicast, broadcast and the cluster's own
_TONES = {
    Effect.STOPS: "bad", Effect.STARTS: "good", Effect.DIFFERS: "",
    Severity.FAILS: "bad", Severity.CHECK: "check", Severity.UNKNOWN: "check", Severity.FINE: "good",
}  # fmt: skip
_SENDERS = {"pod": "pods", "node": "the node itself", "external": "outside", "peer": "other nodes"}


def page(migration: Migration) -> Page:
    """The page. Its sections stand in the order in which one decides."""
    sections = (
        Section("What changes for each Service", tuple(_services(migration))),
        Section("What no first packet shows", tuple(_remarks(migration))),
        Section("What to check on the nodes", tuple(_nodes(migration))),
        Section("Programs beside kube-proxy", tuple(_programs(migration))),
        Section("What a sync costs", tuple(_costs(migration))),
        Section("A configuration to start with", tuple(_configuration(migration))),
        Section("How to go about it", (Items(migration.change.steps, numbered=True),)),
    )
    return Page(
        f"From {migration.source} to {migration.target}",
        tuple(_lead(migration)),
        tuple(_figures(migration)),
        tuple(section for section in sections if section.blocks),
    )


# ------------------------------------------------------------------------------------------------------------------ head


def _lead(migration: Migration) -> Iterator[Paragraph]:
    services = _services_of(migration.stopping)
    if failing := migration.failing_nodes:
        yield Paragraph(f"kube-proxy would not start on {_counted(failing, 'node')}: {_listed(failing)}.", "bad")
    if services:
        yield Paragraph(
            f"Something that works today stops working for {_counted(services, 'Service')}: {_listed(services)}.", "bad"
        )
        losing = _services_of(row for row in migration.stopping if not row.prevented)
        kept = [name for name in services if name not in losing]
        if kept:
            yield Paragraph(f"With the configuration below, nothing stops working for {_listed(kept)}.", "good")
    elif migration.stopping:
        yield Paragraph("Something that works today stops working, but for no Service.", "bad")
    if not migration.breaks:
        yield Paragraph("Nothing stops working that works today, as far as first packets tell.", "good")
    yield Paragraph(
        f"All first packets that the rules of {_counted(migration.cluster.node_names, 'node')} tell apart were followed in both "
        f"modes, to their end and back: {migration.classes:,} classes of packets. kpsim models kube-proxy 1.36."
    )


def _figures(migration: Migration) -> Iterator[tuple[str, str]]:
    services = _services_of(row for group in migration.groups for row in group.rows)
    yield f"{len(_services_of(migration.stopping)):,}", "Services lose something"
    yield f"{len(services):,} of {sum(1 for _ in migration.cluster.state.services):,}", "Services behave differently"
    yield f"{len(migration.failing_nodes):,} of {len(migration.nodes):,}", "nodes cannot run it"
    yield f"{len(_alike(migration.neighbours)):,}", "findings about other programs"


def _services_of(rows: Iterable[Row]) -> list[str]:
    """The Services, without their ports."""
    return sorted({row.service.partition(":")[0] for row in rows} - {""})


# -------------------------------------------------------------------------------------------------------------- services


def _services(migration: Migration) -> Iterator[Block]:
    if not migration.groups:
        yield Paragraph("Nothing. Every first packet has the same fate in both modes.", "good")
    for group in migration.groups:
        yield Heading(group.why or "For another reason", _TONES[group.effect])
        yield Paragraph(_summary(group))
        yield _rows(group, with_prevented=any(row.prevented for each in migration.groups for row in each.rows))
    if migration.set_aside:
        yield Paragraph(
            f"{_number(migration.set_aside, 'further difference')} are left out here: clients get no answer in both modes, or only packets "
            "meet them that nobody sends without forging, such as those with sources of other machines. `kpsim diff` lists them all."
        )


_EFFECTS = {
    Effect.STOPS: "What works today stops working.",
    Effect.STARTS: "What does not work today starts to work.",
    Effect.DIFFERS: "Nothing stops or starts to work; it ends in another way.",
}


def _summary(group: Group) -> str:
    said = [_EFFECTS[group.effect]]
    prevented = sum(row.prevented for row in group.rows)
    if prevented:
        part = "all" if prevented == len(group.rows) else "a part"
        said.append(f"The configuration below keeps {part} of it as it is today.")
    if group.see:
        said.append(f"See {group.see}.")
    return " ".join(said)


def _rows(group: Group, *, with_prevented: bool) -> Table:
    headings = ["Service", "packets to", "from", "today", "then", "on"]
    rows = [
        [row.service or "–", _packets(row), _from(row), row.today, row.then, _short(row.nodes, 3)] for row in group.rows
    ]
    if with_prevented:
        headings.insert(5, "with the configuration below")
        for cells, row in zip(rows, group.rows, strict=True):
            cells.insert(5, "as today" if row.prevented else "not prevented")
    tones = [_TONES[row.effect] for row in group.rows]
    if len(rows) > MOST_ROWS:
        more = [f"… and {len(rows) - MOST_ROWS:,} more rows", *([""] * (len(headings) - 1))]
        rows, tones = [*rows[:MOST_ROWS], more], [*tones[:MOST_ROWS], ""]
    return Table(tuple(headings), tuple(map(tuple, rows)), tuple(tones))


def _packets(row: Row) -> str:
    """``TCP port 30080 of 192.168.0.1``, or with many addresses ``TCP ports 1–79, 81–65535, UDP of 10.0.0.0/8``."""
    addresses = [_host(each) for each in row.targets]
    same: dict[str, list[str]] = {}
    for protocol, ports in row.packets:
        same.setdefault(_ports(ports), []).append(protocol)
    kinds = "; ".join(f"{', '.join(protocols)}{f' {ports}' if ports else ''}" for ports, protocols in same.items())
    share = sum(2.0 ** -int(cidr.rpartition("/")[2]) for cidr in row.targets)
    return f"{kinds} of {'nearly every address' if share > _NEARLY_ALL else _short(addresses, 3)}"


def _ports(ports: Values) -> str:
    """Empty for all ports, or for none."""
    texts = [str(low) if low == high else f"{low}–{high}" for low, high in ports]
    if not ports or (ports[0][0] <= 1 and ports[-1][1] == MOST_PORT and len(ports) == 1):
        return ""
    if ports[0][0] <= 1 and ports[-1][1] == MOST_PORT:
        spared = [(a + 1, b - 1) for (_, a), (b, _) in pairwise(ports)]
        return f"ports but {_short([str(a) if a == b else f'{a}–{b}' for a, b in spared], 4)}"
    return f"port{'s' * (len(texts) > 1 or '–' in texts[0])} {_short(texts, 4)}"


def _from(row: Row) -> str:
    return ", ".join(map(_client, row.clients))


def _client(client: Client) -> str:
    name = _SENDERS.get(client.sender, client.sender)
    if client.all_but:
        return f"{name} (all but {', '.join(map(_host, client.all_but))})"
    return f"{name} ({_short([_host(each) for each in client.sources], 2)})" if client.sources else name


def _host(cidr: str) -> str:
    return cidr.removesuffix("/32").removesuffix("/128")


# ------------------------------------------------------------------------------------------------------- remarks, nodes


def _remarks(migration: Migration) -> Iterator[Block]:
    for remark, names in migration.remarks:
        yield Heading(remark.title)
        yield Paragraph(f"{remark.words}{f' It concerns {_listed(names)}.' if names else ''} See {remark.see}.")


def _nodes(migration: Migration) -> Iterator[Block]:
    told = [node for node in migration.nodes if node.versions.texts]
    if migration.nodes and not told:
        yield Paragraph(
            "The Node objects say nothing about versions. `kubectl get nodes -o yaml` has them, in `status.nodeInfo`.",
            "check",
        )
    elif migration.nodes:
        yield _node_table(migration.nodes)
        yield from (Paragraph(f"{words} See {see}.", tone) for words, see, tone in _said_of_nodes(migration.nodes))
    if migration.change.questions:
        yield Heading("Ask every node")
        yield Table(
            ("command", "what to look for", "see"),
            tuple((f"`{each.command}`", each.words, each.see) for each in migration.change.questions),
        )


def _node_table(nodes: Iterable[NodeReport]) -> Table:
    """The nodes that are not fine, then the others; of equal nodes one row."""
    alike: dict[tuple[str, ...], list[NodeReport]] = {}
    for node in nodes:
        texts = node.versions.texts
        kubelet = texts.get("kubeProxyVersion") or texts.get("kubeletVersion", "")
        alike.setdefault((texts.get("kernelVersion", ""), kubelet, texts.get("osImage", "")), []).append(node)
    order = list(Severity)
    groups = sorted(alike.items(), key=lambda each: (order.index(each[1][0].severity), each[1][0].name))
    rows = tuple((_short([n.name for n in same], 4), *key, same[0].severity.value) for key, same in groups)
    tones = tuple(_TONES[same[0].severity] for _, same in groups)
    return Table(("nodes", "kernel", "kube-proxy (by the kubelet)", "system", "verdict"), rows, tones)


def _said_of_nodes(nodes: Iterable[NodeReport]) -> Iterator[tuple[str, str, str]]:
    """Each thing that is said of some nodes, once, with the nodes."""
    found: dict[tuple[Severity, str, str, str], list[str]] = {}
    for node in nodes:
        for finding in node.findings:
            if finding.words:
                found.setdefault((finding.severity, finding.subject, finding.words, finding.see), []).append(node.name)
    order = list(Severity)
    for (severity, subject, words, see), names in sorted(found.items(), key=lambda each: order.index(each[0][0])):
        yield f"{_short(names, MOST_NAMES)}, {subject}: {words}", see or "`status.nodeInfo`", _TONES[severity]


# -------------------------------------------------------------------------------------------------------------- programs


def _programs(migration: Migration) -> Iterator[Block]:
    if not migration.cluster.beside:
        yield Paragraph(
            "No rules of the nodes were given. `iptables-save`, `ip6tables-save` and `nft list ruleset` of a node, each with "
            "--beside, show which firewalls and plugins care.",
            "check",
        )
        return
    if not migration.neighbours:
        yield Paragraph("No program beside kube-proxy has anything in its rules that depends on the mode.", "good")
    for (program, what, words, see), same in _alike(migration.neighbours).items():
        first = same[0]
        where = _short(sorted({found.node or "every node" for found in same}), 4)
        yield Heading(f"{program}: {what}" if program else what, "check")
        yield Paragraph(f"On {where}. {words} See {see}.")
        if first.rules:
            more = f"\n… and {first.count - len(first.rules)} more" if first.count > len(first.rules) else ""
            yield Code("\n".join(first.rules) + more)


def _alike(found: Iterable[Neighbour]) -> dict[tuple[str, str, str, str], list[Neighbour]]:
    """The same thing on several nodes or in both families, together."""
    alike: dict[tuple[str, str, str, str], list[Neighbour]] = {}
    for each in found:
        alike.setdefault((each.program, each.what, each.words, each.see), []).append(each)
    return alike


# ----------------------------------------------------------------------------------------------------------------- costs


def _costs(migration: Migration) -> Iterator[Block]:
    sizes, (today, then) = migration.sizes, migration.costs
    yield Paragraph(
        f"{_number(sizes.services, 'Service')} with {_number(sizes.ports, 'port')} and {_number(sizes.endpoints, 'endpoint')}, as "
        f"kube-proxy of {sizes.node} sees them in {sizes.family.label}. The first rows are counted by the model; it holds the rules of "
        "other programs too, if they were given."
    )
    counted = (today.counted, then.counted)
    rows = [
        ("rules, chains, elements of sets", *(f"{c.rules:,}, {c.chains:,}, {c.elements:,}" for c in counted)),
        *(
            [("virtual servers, real servers", *(f"{c.virtual_servers:,}, {c.real_servers:,}" for c in counted))]
            if any(c.virtual_servers for c in counted)
            else []
        ),
        (
            "lines to the tool, first sync",
            *(f"{c.first_sync:,} to {f.figures.tool}" for c, f in zip(counted, (today, then), strict=True)),
        ),
        (
            "lines to the tool, one endpoint gone",
            *("–" if c.one_change is None else f"{c.one_change:,}" for c in counted),
        ),
        (
            "first sync after a start, about",
            *(_seconds(cost.figures.start_s(sizes.services)) for cost in (today, then)),
        ),
        (
            "what a first packet to the last Service costs",
            *(_packet_cost(cost.figures.first_packet_us(sizes.ports)) for cost in (today, then)),
        ),
    ]
    yield Table(("", str(migration.source), str(migration.target)), tuple(rows))
    yield Items((f"{migration.source}: {today.figures.change}", f"{migration.target}: {then.figures.change}"))
    yield Paragraph(
        "The times of first syncs are scaled from 10,000 Services with two endpoints each on Linux 6.8; Linux 6.1 takes three to four "
        "times as long as 6.12 in nftables mode. They are good for an order of magnitude. See FIG-2 and K-10."
    )


_NOT_PUBLISHED = "no figure published"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return _NOT_PUBLISHED
    if seconds < 1:
        return "less than a second"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _packet_cost(by_tool: Mapping[str, float]) -> str:
    if not by_tool:
        return _NOT_PUBLISHED
    if len(by_tool) == 1:
        return f"{next(iter(by_tool.values())):.0f} µs"
    return ", ".join(f"{us:.0f} µs ({tool})" for tool, us in by_tool.items())


# --------------------------------------------------------------------------------------------------------- configuration


def _configuration(migration: Migration) -> Iterator[Block]:
    if not migration.cluster.document:
        yield Paragraph("No configuration of kube-proxy was given: this one starts from the defaults.", "check")
    yield Code(migration.configuration.text, "yaml")
    yield Table(
        ("field", "why", "see"),
        tuple((f"`{setting.path}`", setting.words, setting.see) for setting in migration.configuration.settings),
    )


# ----------------------------------------------------------------------------------------------------------------- words


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _counted(names: Sequence[str], noun: str) -> str:
    return _number(len(names), noun)


def _listed(names: Sequence[str]) -> str:
    return _short(names, MOST_NAMES)


def _short(names: Sequence[str], most: int) -> str:
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"
