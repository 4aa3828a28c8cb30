"""What a node in ipvs mode saved, read again: its tools do not print the addresses of kube-ipvs0 (IPVS-3, IPVS-7.3)."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from ipvs_rigs import node_port_rig, web_rig
from proxiers import NODE_IP, Rig, port, service
from simulations import HEAD

from kpsim.addresses import Family, format_ip
from kpsim.backends.ipvs.document import ipsets_json
from kpsim.backends.table import notes_on
from kpsim.config import Mode
from kpsim.explore import load
from kpsim.explore.local_addresses import unmodelled, with_local_addresses
from kpsim.explore.saved import read_machine
from kpsim.explore.site import rules_site
from kpsim.ipvs.servers import VirtualServer, VirtualServerKey
from kpsim.maps import Map
from kpsim.programmed import Programmed
from kpsim.scenario import parse_scenario
from kpsim.tracing.probes import first_packet
from kpsim.tracing.site import Sender
from kpsim.tracing.traces import trace_packet

CLUSTER_IPS = {Family.IPV4: "172.30.10.1", Family.IPV6: "fd00:172:30::1"}


def saved(rig: Rig, folder: Path) -> dict[str, Path]:
    """Files of what the tools print, by the tool."""
    text = rig.proxier.backend.save(rig.sync().held)
    files = {}
    for command, part in re.findall(r"# (ip\w*tables-save|ipset|ipvsadm)[^\n]*\n(.*?)(?=# |\Z)", text, re.DOTALL):
        tool = command.replace("ip6", "ip")
        files[tool] = folder / tool
        files[tool].write_text(part)
    return files


def addresses(told: Programmed) -> list[str]:
    assert set(told.local_addresses.values()) <= {"kube-ipvs0"}
    return [format_ip(told.family, each) for each in sorted(told.local_addresses)]


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize(
    ("tools", "source"),
    [
        (("ipset", "iptables-save", "ipvsadm"), "the addresses in {set}"),
        (("ipset", "iptables-save"), "the addresses in {set}"),
        (("ipset", "ipvsadm"), "the addresses in {set}"),
        (("ipvsadm",), "the addresses of the virtual servers"),
        (("ipset",), ""),  # as the clean-up leaves the sets of IPv6 (IPVS-9.3)
    ],
)
def test_addresses_follow_from_what_was_saved(
    family: Family, tools: tuple[str, ...], source: str, tmp_path: Path
) -> None:
    files = saved(node_port_rig(family), tmp_path)
    notes: list[str] = []
    machine = read_machine([files[tool] for tool in tools], family, family)
    (told,) = with_local_addresses(machine, [NODE_IP, "192.168.7.2/24", "2001:db8::2"], notes.append)
    ip, name = CLUSTER_IPS[family], "KUBE-IPVS-IPS" if family is Family.IPV4 else "KUBE-6-IPVS-IPS"
    assert addresses(told) == ([ip] if source else [])
    assert notes == ([f"kube-ipvs0 is taken to have {source.format(set=name)}: {ip}"] if source else [])


def test_a_note_names_the_first_addresses() -> None:
    servers = {VirtualServerKey(number, 80, "tcp"): VirtualServer("rr", 32) for number in range(10, 0, -1)}
    notes: list[str] = []
    told = replace(Programmed.nothing(Family.IPV4), virtual_servers=Map(servers))
    (found,) = with_local_addresses([told], ["0.0.0.9"], notes.append)
    shown = "0.0.0.1, 0.0.0.2, 0.0.0.3, 0.0.0.4, 0.0.0.5 and 4 more"
    assert notes == [f"kube-ipvs0 is taken to have the addresses of the virtual servers: {shown}"]
    assert len(addresses(found)) == 9 and "0.0.0.9" not in addresses(found)


@pytest.mark.parametrize("family", Family)
def test_ipsets_are_read_as_they_were_saved(family: Family, tmp_path: Path) -> None:
    """A range of one address is written without its length, which the sync's own account has (IPVS-7.5)."""
    one, many = ("198.51.100.7", "198.51.100.0/24") if family is Family.IPV4 else ("2001:db8::7", "2001:db8::/64")
    rig = node_port_rig(family)
    spec = {
        "type": "LoadBalancer",
        "loadBalancerSourceRanges": [f"{one}/{family.bits}", many],
        "ipFamilies": [family.label], "clusterIPs": [CLUSTER_IPS[family] + "1"],
    }  # fmt: skip
    vip = "203.0.113.1" if family is Family.IPV4 else "2001:db8:113::1"
    rig.apply(service("shop/guarded", [port(81)], cluster_ip=CLUSTER_IPS[family] + "1", ingress=[vip], **spec))
    (told,) = read_machine([saved(rig, tmp_path)["ipset"]], family, family)
    held = rig.proxier.held
    assert told.ipsets == held.ipsets
    name = next(name for name in held.ipsets if "SOURCE-CID" in name)
    assert f"add {name} {vip},tcp:81,{one}\n" in (tmp_path / "ipset").read_text()
    (shown,) = [each for each in ipsets_json(held) if each["name"] == name]
    assert shown["entries"] == [f"{vip},tcp:81,{many}", f"{vip},tcp:81,{one}/{family.bits}"]


FTP = "ip_vs takes connections to port 20 and to ports from 1024 of this address for FTP's data, which is not modelled (IPVS-11.2)"


def test_what_ip_vs_does_for_ftp_is_named() -> None:
    """Port 21 of TCP alone, where the mode is ipvs: for virtual servers, for Services of a cluster and of a scenario."""
    servers = {VirtualServerKey(1, port, name): VirtualServer("rr", 32) for port in (21, 80) for name in ("tcp", "udp")}
    told = replace(Programmed.nothing(Family.IPV4), virtual_servers=Map(servers))
    assert list(unmodelled([told])) == [f"virtual server 0.0.0.1:21: {FTP}"]
    services = [service(ports=[port(21), port(21, "dns", "UDP"), port(80, "web")])]
    assert list(notes_on(Mode.IPVS, services)) == [f"shop/web, port 21/TCP: {FTP}"]
    assert list(notes_on(Mode.IPTABLES, services)) == []
    text = json.dumps({"apiVersion": "v1", "kind": "Service", **services[0].json})
    assert f"shop/web, port 21/TCP: {FTP}" in load(text=text, mode="ipvs").notes
    scenario = HEAD.replace("port: 80", "port: 21")
    assert f"default/web, port 21/TCP: {FTP}" in parse_scenario(scenario, "f", settings=("proxy.mode=ipvs",)).notes


@pytest.mark.parametrize(("settings", "kept"), [({}, False), ({"net.ipv4.vs.conntrack": 0}, True)])
def test_a_saved_machine_has_the_settings_of_ipvs_mode(settings: dict[str, int], kept: bool, tmp_path: Path) -> None:
    """kube-proxy sets vs/conntrack (IPVS-2). Without it nothing is translated behind ip_vs (IPVS-10.6)."""
    files = saved(web_rig(masquerade_all=True), tmp_path)
    notes: list[str] = []
    machine = with_local_addresses(read_machine(files.values(), Family.IPV4, None), [NODE_IP], notes.append)
    site = rules_site(*machine, node_ips=[NODE_IP], pod_cidrs=["10.180.0.0/24"], sysctls=settings)
    traced = trace_packet(site, first_packet("172.30.10.1:80"), node="node", sender=Sender.EXTERNAL)
    walk = traced.journey.hops[0].walk
    assert walk.redirected and walk.masqueraded is not kept
    assert walk.came_by == "eth0" and walk.packet.in_interface == ""  # ip_vs sends it on as the node's own
    assert traced.exchange is not None and traced.exchange.detour is None
