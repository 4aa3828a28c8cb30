"""What replay outputs show of ipvs mode: virtual servers, ipsets, bound addresses, and the restore document."""

from collections.abc import Iterator

from kpsim.addresses import Family, Network, format_ip, join_host_port
from kpsim.backends import IpvsConnections
from kpsim.backends.iptables.document import chain_line, chain_of
from kpsim.backends.iptables.service_rules import rules_text
from kpsim.backends.iptables.tables import RestoreDocument, TableUpdate
from kpsim.backends.ipvs import rules
from kpsim.backends.ipvs.ipsets import SETS, Declared
from kpsim.backends.ipvs.rules import Rules
from kpsim.backends.ipvs.servers import DEVICE, device_addresses
from kpsim.dialects import ipset, ipvsadm
from kpsim.dialects.iptables import Style, render_ruleset
from kpsim.inputs import JsonObject
from kpsim.ipvs.servers import VirtualServer, VirtualServerKey
from kpsim.programmed import Programmed
from kpsim.ruleset import Interval, Key, Set

_FAMILY_WORDS = {Family.IPV4: "inet", Family.IPV6: "inet6"}


def restore_document(family: Family, written: Rules) -> RestoreDocument:
    """The document of one sync: it refills all chains, nat before filter (IPVS-8.1)."""
    tables = [(table, chains, getattr(written, table)) for table, chains in rules.CHAINS.items()]

    def render() -> str:
        return "".join(
            f"*{table}\n{''.join(map(chain_line, chains))}{rules_text(placed, family)}COMMIT\n"
            for table, chains, placed in tables
        )

    return RestoreDocument(
        tuple(TableUpdate(table, tuple(chain_of(name, placed) for name in chains)) for table, chains, placed in tables),
        render,
    )


def servers_json(held: Programmed, connections: IpvsConnections) -> list[JsonObject]:
    """All virtual servers with their real servers, sorted by the text of the address, port and protocol."""

    def real(key: VirtualServerKey, virtual: VirtualServer) -> Iterator[JsonObject]:
        for server in virtual.servers:
            active = connections(key, server).active
            shown = {"address": format_ip(held.family, server.address), "port": server.port, "weight": server.weight}
            yield {**shown, "activeConn": active} if active else shown

    found = [
        {
            "address": format_ip(held.family, key.address),
            "port": key.port,
            "protocol": key.protocol.upper(),
            "scheduler": virtual.scheduler,
            "flags": virtual.flags.value,
            "timeout": virtual.timeout_s,
            "realServers": sorted(real(key, virtual), key=lambda shown: (shown["address"], shown["port"])),
        }
        for key, virtual in held.virtual_servers.items()
    ]
    return sorted(found, key=lambda shown: (shown["address"], shown["port"], shown["protocol"]))


def ipsets_json(held: Programmed) -> list[JsonObject]:
    """Those of kube-proxy's ipsets that exist, sorted by name."""
    found = ((declared, held.ipsets.get(declared.named(held.family))) for declared in SETS)
    return sorted(
        (_ipset_json(declared, held.family, ipset) for declared, ipset in found if ipset is not None),
        key=lambda shown: str(shown["name"]),
    )


def _ipset_json(declared: Declared, family: Family, ipset: Set) -> JsonObject:
    return {
        "name": ipset.name,
        "type": declared.kind,
        "family": _FAMILY_WORDS[family],
        "comment": declared.comment,
        "entries": sorted(entry_text(declared, family, key) for key in ipset.elements),
    }


def entry_text(declared: Declared, family: Family, key: Key) -> str:
    """An entry as kube-proxy writes it (IPVS-7.3). It never leaves out a prefix length, as ipset does."""
    parts = list(key)
    words: list[str] = []
    for part in declared.parts:
        value = parts.pop(0)
        if part == "port" and isinstance(value, str):
            words.append(f"{value}:{parts.pop(0)}")
        elif isinstance(value, tuple):
            words.append(str(_network(family, value)))
        elif part == "net" and isinstance(value, int):
            words.append(str(Network(family, value, family.bits)))
        elif part == "ip" and isinstance(value, int):
            words.append(format_ip(family, value))
        else:
            words.append(str(value))
    return ",".join(words)


def _network(family: Family, interval: Interval) -> Network:
    first, last = interval
    return Network(family, first, family.bits - (last - first).bit_length())


def addresses_json(held: Programmed) -> list[str]:
    """The addresses of kube-ipvs0, sorted by text."""
    return sorted(format_ip(held.family, address) for address in device_addresses(held))


def name_of(family: Family, key: VirtualServerKey, address: int, port: int) -> str:
    """A real server as the list of draining servers names it: ``VIP:port/PROTOCOL/IP:port`` (IPVS-6.1)."""
    virtual = join_host_port(format_ip(family, key.address), key.port)
    return f"{virtual}/{key.protocol.upper()}/{join_host_port(format_ip(family, address), port)}"


def saved_text(held: Programmed) -> str:
    """What each tool prints of what the kernel holds, under the command that prints it; of kube-ipvs0 its addresses."""
    addresses = "".join(f"{address}/{held.family.bits} dev {DEVICE}\n" for address in addresses_json(held))
    parts = {
        "ipset save": ipset.render(held.ipsets),
        f"{_SAVES[held.family]}": render_ruleset(held.ruleset, Style.SAVE),
        "ipvsadm -S -n": ipvsadm.render(held.family, held.virtual_servers),
        f"ip address show {DEVICE}": addresses,
    }
    return "".join(f"# {command}\n{text}" for command, text in parts.items())


_SAVES = {Family.IPV4: "iptables-save", Family.IPV6: "ip6tables-save"}
