"""What a change of proxy mode means for a cluster: nodes, programs beside kube-proxy, costs, configuration, the page.

The differences of first packets are given here; ``test_diff`` and ``test_migrate_command`` have them from the model.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from shop import NODES, WEB, port, service

import kpsim
from kpsim.addresses import Family, parse_network
from kpsim.comparison.behaviour.spaces import Values
from kpsim.config import Mode, config_from_json
from kpsim.errors import InputError
from kpsim.inputs import Json
from kpsim.manifests import check_proxy_config
from kpsim.migration import Comparison, Migration, assess, migration_record, page
from kpsim.migration.differences import Client, Differing, Effect, Row, grouped, noticed
from kpsim.migration.facts import Severity
from kpsim.migration.ordinary import Ordinary
from kpsim.migration.writing import as_html, as_markdown, as_text
from kpsim.tracing.site import Sender

CONFIG = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.180.0.0/16\n"


def node(name: str, **info: str) -> str:
    written = ", ".join(f"{key}: {value!r}" for key, value in info.items())
    address = f"192.168.0.{name[-1]}"
    return (
        f"apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n"
        f"status: {{addresses: [{{type: InternalIP, address: {address}}}], nodeInfo: {{{written}}}}}\n"
    )


MODERN = node("node-1", kernelVersion="6.12.1", kubeletVersion="v1.36.2")


def cluster(*documents: str, config: str = CONFIG, beside: Sequence[Path] = ()) -> kpsim.Cluster:
    return kpsim.load(text="---\n".join((config, *documents)), beside=beside)


def same(_a: kpsim.Cluster, _b: kpsim.Cluster) -> Comparison:
    return Comparison(7, [])


def migration(*documents: str, config: str = CONFIG, beside: Sequence[Path] = ()) -> Migration:
    return assess(cluster(*documents, config=config, beside=beside), "nftables", same)


def answer(verdict: str, disposition: str = "delivered", ends: Sequence[str] = (), sport: int | None = 40000) -> Json:
    seen = {"src": "192.168.0.1", "sport": sport}
    outcomes = [{"weight": "1", "endpoint": end, "masquerade": True, "seen": {**seen, "dst": end}} for end in ends]
    return {"disposition": disposition, "outcomes": outcomes, "by": None, "exchange": {verdict: "1"}}


WORKS, REFUSED, SILENT = answer("works"), answer("refused", "passed"), answer("request-lost", "dropped")


ANY = ((0, (1 << 32) - 1),)


def addresses(*texts: str) -> Values:
    networks = [parse_network(text if "/" in text else f"{text}/32") for text in texts]
    return tuple(sorted((network.base, network.last) for network in networks if network is not None))


def difference(a: Json, b: Json, *, service: str = "shop/web:p", why: str = "reason", **packets: Any) -> Differing:
    """To the node port of node-1 at 127.0.0.1, from the node itself, unless ``packets`` says otherwise."""
    box = {
        "family": Family.IPV4, "node": "node-1", "sender": Sender.NODE, "protocol": "TCP", "source": ANY,
        "destination": addresses("127.0.0.1"), "ports": ((30080, 30080),), **packets,
    }  # fmt: skip
    return Differing(service, today=a, then=b, why=why, see="NFT-5.7", **box)


# ----------------------------------------------------------------------------------------------------------------- nodes


@pytest.mark.parametrize(
    ("info", "verdict"),
    [
        ({"kernelVersion": "4.18.0-553.el8.x86_64", "kubeletVersion": "v1.36.2"}, Severity.FAILS),  # NFT-8.13
        ({"kernelVersion": "5.12.9", "kubeletVersion": "v1.36.2"}, Severity.FAILS),
        ({"kernelVersion": "5.13.0", "kubeletVersion": "v1.36.2"}, Severity.CHECK),  # MODE-1: INVALID before 6.1
        ({"kernelVersion": "6.1.0-18-amd64", "kubeletVersion": "v1.36.2"}, Severity.FINE),
        ({"kernelVersion": "6.12.1", "kubeletVersion": "v1.28.9"}, Severity.FAILS),  # VER-2: no such mode
        ({"kernelVersion": "6.12.1", "kubeletVersion": "v1.30.0"}, Severity.FAILS),  # VER-2: alpha
        ({"kernelVersion": "6.12.1", "kubeletVersion": "v1.31.0"}, Severity.CHECK),  # VER-2: beta
        ({"kernelVersion": "6.12.1", "kubeletVersion": "v1.36.0", "kubeProxyVersion": "v1.28.0"}, Severity.FAILS),
        ({"kubeletVersion": "v1.36.2"}, Severity.UNKNOWN),
        ({"kernelVersion": "unknown", "kubeletVersion": "v1.36.2"}, Severity.UNKNOWN),
        ({}, Severity.UNKNOWN),
    ],
)
def test_a_nodes_versions_decide_whether_kube_proxy_starts(info: dict[str, str], verdict: Severity) -> None:
    found = migration(node("node-1", **info), *WEB)
    assert [(each.name, each.severity) for each in found.nodes] == [("node-1", verdict)]
    assert found.breaks is (verdict is Severity.FAILS)


def test_nodes_with_windows_are_not_concerned() -> None:
    windows = node("node-2", kernelVersion="10.0.20348.2113", kubeletVersion="v1.36.2", operatingSystem="windows")
    assert [each.name for each in migration(MODERN, windows, *WEB).nodes] == ["node-1"]


# --------------------------------------------------------------------------------------------------------- configuration


def started(config: str, *documents: str) -> dict[str, Any]:
    """The configuration to start with, as kube-proxy would read its text."""
    found = migration(MODERN, *documents, config=CONFIG + config)
    document = yaml.safe_load(found.configuration.text)
    assert document == found.configuration.document
    assert check_proxy_config(document).complaints == ()
    assert document["mode"] == "nftables"
    return dict(document)


def test_options_of_the_old_mode_move_to_the_section_of_the_new_one() -> None:
    """CFG-2.2, CFG-2.3: the nftables section has its own periods, mark and masqueradeAll."""
    old = "iptables: {masqueradeAll: true, masqueradeBit: 12, minSyncPeriod: 5s, syncPeriod: 1m, localhostNodePorts: false}\n"
    document = started(old, *WEB)
    assert "iptables" not in document
    config, before = config_from_json(document), config_from_json(yaml.safe_load(CONFIG + old))
    kept = ("masquerade_all", "masquerade_bit", "min_sync_period_ns", "sync_period_ns", "cluster_cidr")
    assert [getattr(config, name) for name in kept] == [getattr(before, name) for name in kept]
    assert config.masquerade_all


def test_what_the_section_of_the_new_mode_says_already_stays() -> None:
    old = "iptables: {syncPeriod: 1m, minSyncPeriod: 5s}\nnftables: {syncPeriod: 20s, minSyncPeriod: 0s}\n"
    assert started(old, *WEB)["nftables"] == {"syncPeriod": "20s", "minSyncPeriod": "5s"}


def test_node_ports_stay_on_all_addresses_if_there_are_any() -> None:
    """NFT-1.8: left out, nftables mode takes the primary addresses only."""
    all_addresses = ["0.0.0.0/0", "::/0"]
    assert started("", *WEB)["nodePortAddresses"] == all_addresses
    assert started("nodePortAddresses: [192.168.0.0/24]\n", *WEB)["nodePortAddresses"] == ["192.168.0.0/24"]
    inside = service("inside", f"clusterIP: 172.30.0.9, {port(80)}")
    assert "nodePortAddresses" not in started("", inside)


def test_old_kernels_get_liberal_connection_tracking() -> None:
    """MODE-1: before Linux 6.1 replies outside the window leave untranslated."""
    old = node("node-1", kernelVersion="5.15.0", kubeletVersion="v1.36.2")
    assert migration(old, *WEB).configuration.document["conntrack"] == {"tcpBeLiberal": True}
    assert "conntrack" not in migration(MODERN, *WEB).configuration.document
    liberal = CONFIG + "conntrack: {tcpBeLiberal: true, maxPerCore: 0}\n"
    document = migration(old, *WEB, config=liberal).configuration.document
    assert document["conntrack"] == {"tcpBeLiberal": True, "maxPerCore": 0}


def test_what_says_nothing_or_is_refused_now_is_left_out() -> None:
    """CFG-3: the gate is unknown to 1.36. kubeadm writes out empty values of everything."""
    old = (
        "featureGates: {TopologyAwareHints: true, AllowServiceExternalIPs: false}\nportRange: ''\nwinkernel: {enableDSR: false}\n"
        "ipvs: {scheduler: rr}\nconntrack: {maxPerCore: null}\nnodePortAddresses: null\nlogging: {flushFrequency: 0}\n"
    )
    document = started(old, service("inside", f"clusterIP: 172.30.0.9, {port(80)}"))
    assert document["featureGates"] == {"AllowServiceExternalIPs": False}
    assert not {"portRange", "winkernel", "ipvs", "conntrack", "nodePortAddresses"} & set(document)
    assert document["logging"] == {"flushFrequency": 0}


def test_every_change_has_its_reason_in_the_text() -> None:
    found = migration(
        MODERN, *WEB, config=CONFIG + "iptables: {localhostNodePorts: true, syncPeriod: 1m}\n"
    ).configuration
    comments = " ".join(line[2:] for line in found.text.splitlines() if line.startswith("# "))
    assert all(setting.words in comments for setting in found.settings)
    paths = [setting.path for setting in found.settings]
    assert paths == ["mode", "iptables.localhostNodePorts", "nftables", "nodePortAddresses"]


# ------------------------------------------------------------------------------------------- programs beside kube-proxy

FIREWALL = """\
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:cali-FORWARD - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -j cali-FORWARD
-A FORWARD -j REJECT --reject-with icmp-host-prohibited
-A KUBE-SERVICES -d 172.30.0.77/32 -p tcp -m comment --comment "shop/x has no endpoints" -m tcp --dport 80 -j REJECT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -d 100.64.0.0/10 -j KUBE-MARK-MASQ
-A POSTROUTING -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A POSTROUTING -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
COMMIT
"""


@pytest.fixture
def firewall(tmp_path: Path) -> Path:
    file = tmp_path / "node.rules"
    file.write_text(FIREWALL)
    return file


def test_other_programs_rules_that_care_are_found_and_kube_proxys_own_are_not(firewall: Path) -> None:
    found = migration(MODERN, *WEB, beside=[firewall]).neighbours
    assert [(each.program, each.what, each.see, each.count) for each in found] == [
        ("Calico", "has rules on the node", "MODE-1", 0),
        ("", "policy DROP of filter/INPUT", "MODE-1", 0),
        ("", "filter/FORWARD ends with a rule that refuses the rest", "NFT-9.4", 1),
        ("", "leads to KUBE-MARK-MASQ", "I-18, MODE-1", 1),
        ("", "reads or writes the mark 0x4000", "NFT-5.5, NFT-12", 1),
    ]
    assert found[3].rules == ("-A POSTROUTING -d 100.64.0.0/10 -j KUBE-MARK-MASQ (table nat)",)
    assert "0x4000" in found[4].rules[0]


OTHER_TABLE = """\
table inet fence {
	chain early {
		type filter hook prerouting priority -105; policy accept;
	}
	chain later {
		type filter hook prerouting priority -90; policy accept;
	}
	chain last {
		type filter hook input priority 0; policy drop;
	}
}
"""


def test_chains_of_other_tables_are_held_against_kube_proxys_priorities(tmp_path: Path) -> None:
    """MODE-1: source ranges are checked at -110. K-9.1: no accept of kube-proxy's ever ruled over another table."""
    file = tmp_path / "fence.nft"
    file.write_text(OTHER_TABLE)
    found = migration(MODERN, *WEB, beside=[file]).neighbours
    told = {(each.program, each.what, each.see) for each in found}
    assert told == {
        ("table inet fence", "chain early, hook prerouting, priority -105", "MODE-1"),
        ("table inet fence", "chain last, hook input, priority 0", "K-9.1"),
    }


def test_the_mark_is_the_configured_one(firewall: Path) -> None:
    config = CONFIG + "iptables: {masqueradeBit: 13}\n"
    whats = [each.what for each in migration(MODERN, *WEB, config=config, beside=[firewall]).neighbours]
    assert "reads or writes the mark 0x2000" in whats


def test_without_rules_of_the_nodes_the_page_says_what_it_cannot_tell(firewall: Path) -> None:
    titles = {remark.title for remark, _ in migration(MODERN, *WEB).remarks}
    assert "A firewall that drops what is forwarded" in titles
    with_rules = migration(MODERN, *WEB, beside=[firewall])
    assert "A firewall that drops what is forwarded" not in {remark.title for remark, _ in with_rules.remarks}


# --------------------------------------------------------------------------------------------------------------- remarks


def test_remarks_name_those_whom_they_concern() -> None:
    sticky = service("sticky", f"clusterIP: 172.30.0.8, sessionAffinity: ClientIP, {port(80)}")
    health = service(
        "health",
        f"type: LoadBalancer, clusterIP: 172.30.0.7, externalTrafficPolicy: Local, healthCheckNodePort: 32000, {port(80, 30070)}",
    )
    old = node("node-2", kernelVersion="5.15.0", kubeletVersion="v1.36.2")
    concerned = {remark.title: names for remark, names in migration(MODERN, old, sticky, health).remarks}
    assert concerned["Session affinity starts anew, and then remembers more"] == ("shop/sticky",)
    assert concerned["Health check node ports need a hole in the node's firewall"] == ("shop/health",)
    assert concerned["Packets that belong to no connection are no longer dropped"] == ("node-2",)
    fewer = {remark.title for remark, _ in migration(MODERN, *WEB).remarks}
    assert fewer & set(concerned) < set(concerned)


# ----------------------------------------------------------------------------------------------------------- differences


class Everybody:
    """Every address may be a client's."""

    def sources(self, family: Family, node: str, sender: Sender) -> Values:
        return ANY


def test_differences_are_grouped_by_reason_and_merged_over_nodes_addresses_and_protocols() -> None:
    groups = grouped(
        [
            difference(SILENT, REFUSED, why="told sooner", service=""),
            difference(WORKS, REFUSED, why="no localhost"),
            difference(WORKS, REFUSED, why="no localhost", node="node-2", destination=addresses("127.0.0.2")),
            difference(WORKS, SILENT, why="no localhost", ports=((7, 9),), protocol="UDP"),
            difference(WORKS, SILENT, why="no localhost", ports=(), protocol="ICMP"),
            difference(REFUSED, WORKS, why="no localhost", sender=Sender.POD, source=addresses("10.0.0.0/8")),
        ],
        Everybody(),
    )
    assert [(group.why, group.effect) for group in groups] == [
        ("no localhost", Effect.STOPS),
        ("told sooner", Effect.DIFFERS),
    ]
    pings, stops, starts = groups[0].rows
    assert (stops.nodes, stops.targets) == (("node-1", "node-2"), ("127.0.0.1/32", "127.0.0.2/32"))
    assert stops.clients == (Client("node"),)
    assert (stops.today, stops.then) == ("works", "refused")
    assert pings.packets == (("ICMP", ()), ("UDP", ((7, 9),)))
    assert (starts.effect, starts.clients) == (Effect.STARTS, (Client("pod", sources=("10.0.0.0/8",)),))


def test_a_few_sources_that_are_missing_are_named() -> None:
    [row] = rows_of(difference(WORKS, REFUSED, sender=Sender.POD, source=((1, (1 << 32) - 1),)))
    assert row.clients == (Client("pod", all_but=("0.0.0.0/32",)),)


def test_odds_are_told_only_if_they_make_the_difference() -> None:
    """They depend on the node, so rows of many nodes would be told apart by them."""
    third, half = (
        {**WORKS, "exchange": {"works": odds, "answer-lost": rest}} for odds, rest in (("1/3", "2/3"), ("1/2", "1/2"))
    )
    [row] = grouped([difference(third, REFUSED), difference(half, REFUSED, node="node-2")], Everybody())[0].rows
    assert (row.today, row.then, row.nodes) == ("works in part", "refused", ("node-1", "node-2"))
    [worse] = rows_of(difference(half, third))
    assert (worse.today, worse.effect) == ("works 1/2, the answer is lost 1/2", Effect.STOPS)


def test_what_no_client_notices_is_set_aside() -> None:
    lost, leaked = answer("answer-lost", "delivered"), answer("request-lost", "passed")
    assert not noticed(difference(lost, SILENT))
    assert noticed(difference(leaked, SILENT))  # MODE-1: unallocated cluster IPs leak no longer
    assert noticed(difference(SILENT, REFUSED)) and noticed(difference(WORKS, SILENT))
    found = assessed(difference(lost, SILENT), difference(WORKS, REFUSED, sender=Sender.POD))
    assert (found.groups, found.set_aside) == ((), 2)


def test_what_the_configuration_prevents_is_told_apart() -> None:
    """NFT-1.8, NFT-5.7: with all addresses, node ports are served at the second one as today, and still not at 127.0.0.1."""
    found = assessed(difference(WORKS, REFUSED, destination=addresses("127.0.0.1", "203.0.113.1")))
    rows = {row.targets: row.prevented for row in found.groups[0].rows}
    assert rows == {("127.0.0.1/32",): False, ("203.0.113.1/32",): True}
    [row] = [row for row in migration_record(found)["differences"][0]["rows"] if row["dst"] == ["203.0.113.1/32"]]
    assert row["preventedByConfiguration"] is True
    assert "as today" in as_text(page(found))


@pytest.mark.parametrize(
    ("packets", "kept"),
    [
        # PP-1.1: what clients of each kind send from
        ({"sender": Sender.NODE}, True),  # 127.0.0.1 dials itself
        ({"sender": Sender.NODE, "source": addresses("192.168.0.1")}, False),  # not unless it is told to
        ({"sender": Sender.POD}, False),  # nobody dials another machine's loopback
        ({"sender": Sender.POD, "destination": addresses("192.0.2.10")}, True),
        ({"sender": Sender.POD, "destination": addresses("192.0.2.10"), "source": addresses("10.180.2.7")}, False),
        (
            {"sender": Sender.EXTERNAL, "destination": addresses("192.0.2.10"), "source": addresses("198.51.100.7")},
            True,
        ),
        ({"sender": Sender.EXTERNAL, "destination": addresses("192.0.2.10"), "source": addresses("10.180.2.7")}, False),
        ({"sender": Sender.EXTERNAL, "destination": addresses("192.0.2.10"), "source": addresses("127.0.0.9")}, False),
        ({"sender": Sender.EXTERNAL, "destination": addresses("224.0.0.1")}, False),
        ({"sender": Sender.EXTERNAL, "destination": addresses("10.180.0.255")}, False),  # broadcast of the pods' bridge
        ({"sender": Sender.PEER, "destination": addresses("192.168.0.1")}, True),
        ({"sender": Sender.PEER, "destination": addresses("192.168.0.1"), "source": addresses("10.180.1.5")}, True),
        ({"sender": Sender.PEER, "destination": addresses("172.30.0.10")}, False),  # its own node translates it
    ],
)
def test_ordinary_packets_are_told_from_forged_ones(packets: dict[str, Any], kept: bool) -> None:
    cluster = kpsim.load(text="---\n".join((CONFIG, NODES, *WEB)))
    ordinary = Ordinary(cluster, cluster)
    assert (ordinary.of(difference(WORKS, REFUSED, **packets)) is not None) is kept


def rows_of(found: Differing) -> tuple[Row, ...]:
    return grouped([found], Everybody())[0].rows


def test_two_answers_are_told_apart_with_as_much_detail_as_it_takes() -> None:
    [passed] = rows_of(difference(answer("request-lost", "passed"), SILENT))
    assert (passed.today, passed.then) == ("no answer (passed)", "no answer (dropped)")
    a, b = answer("works", ends=["10.0.0.1:80"]), answer("works", ends=["10.0.0.2:80"])
    [ends] = rows_of(difference(a, b))
    assert "10.0.0.1:80" in ends.today and "10.0.0.2:80" in ends.then
    [port] = rows_of(difference(a, answer("works", ends=["10.0.0.1:80"], sport=None)))
    assert (port.today, port.then) == ("works (source port kept)", "works (source port drawn)")
    half = {**WORKS, "exchange": {"works": "1/2", "request-lost": "1/2"}}
    [partly] = rows_of(difference(WORKS, half))
    assert (partly.effect, partly.then) == (Effect.STOPS, "works in part")


# ------------------------------------------------------------------------------------------------------------------ page


#: a node with a second address, at which iptables mode serves node ports, too
TWO_ADDRESSES = MODERN.replace("192.168.0.1}]", "192.168.0.1}, {type: ExternalIP, address: 203.0.113.1}]")


def assessed(*differences: Differing) -> Migration:
    given = Comparison(1234, differences)
    return assess(cluster(TWO_ADDRESSES, *WEB), Mode("nftables"), lambda _a, _b: given)


def test_something_that_stops_working_is_said_first_and_breaks() -> None:
    assert not assessed().breaks
    assert not assessed(difference(SILENT, REFUSED)).breaks
    broken = assessed(difference(WORKS, REFUSED))
    assert broken.breaks
    lead = [paragraph.text for paragraph in page(broken).lead]
    assert lead[0] == "Something that works today stops working for 1 Service: shop/web."
    assert "1,234 classes" in lead[1]
    prevented = assessed(difference(WORKS, REFUSED, destination=addresses("203.0.113.1")))
    assert prevented.breaks
    assert page(prevented).lead[1].text == "With the configuration below, nothing stops working for shop/web."


def test_the_modes_are_compared_and_nothing_else_is_changed() -> None:
    seen = []

    def compare(a: kpsim.Cluster, b: kpsim.Cluster) -> Comparison:
        seen.append((a.config, b.config))
        return Comparison(1, [])

    assess(cluster(MODERN, *WEB), "nftables", compare)
    [(before, after)] = seen
    assert after == replace(before, mode=Mode("nftables"))


def test_the_three_forms_say_the_same() -> None:
    """Words of each block are in each form, in the same order."""
    written = page(assessed(difference(WORKS, REFUSED, why="no node ports on localhost")))

    def bare(text: str) -> list[str]:
        return re.findall(r"[A-Za-z]{4,}", text)

    class Text(HTMLParser):
        words = ""

        def handle_data(self, data: str) -> None:
            self.words += f" {data}"

    parser = Text()
    parser.feed(re.sub(r"<style>.*?</style>|<title>.*?</title>", "", as_html(written), flags=re.DOTALL))
    in_html, in_markdown = bare(parser.words), bare(as_markdown(written))
    assert len(in_html) > 300
    figures = len(bare(" ".join(name for _, name in written.figures)))
    assert in_html == [word for word in in_markdown if word != "yaml"], figures
    assert set(bare(as_text(written))) == set(in_html)


EVIL = "<script>alert(1)</script> | **x** `y` \x1b[31m \u202e"


def test_what_comes_from_input_becomes_no_markup() -> None:
    named = node("node-1", kernelVersion="4.1", osImage="EVIL").replace("'EVIL'", yaml_text(EVIL))
    written = page(assess(cluster(named, *WEB), "nftables", same))
    html, markdown, text = as_html(written), as_markdown(written), as_text(written)
    assert "<script" not in html and "&lt;script" in html
    assert "<script" not in markdown.replace("\\<", "") and "\\|" in markdown and "**x**" not in markdown
    assert not any(character in form for form in (html, markdown, text) for character in "\x1b\u202e")


def yaml_text(text: str) -> str:
    import json

    return json.dumps(text)


def test_a_page_is_the_same_every_time_and_needs_nothing_else() -> None:
    first, second = (as_html(page(assessed(difference(WORKS, REFUSED)))) for _ in range(2))
    assert first == second
    assert not re.search(r"<script|<link|src=|https?:", first)
    assert "prefers-color-scheme:dark" in first and "max-width:40rem" in first


def test_long_tables_are_cut_and_counted() -> None:
    many = [difference(WORKS, REFUSED, service=f"shop/web-{number}") for number in range(100)]
    text = as_text(page(assessed(*many)))
    assert "… and 60 more rows" in text


# ----------------------------------------------------------------------------------------------------------------- costs


def test_costs_are_counted_by_the_model_and_scaled_from_published_figures() -> None:
    """FIG-2: 10,000 Services take 40.1 s and 3 m 14 s. NFT-8.7: a sync writes only what changed."""
    found = assessed()
    today, then = found.costs
    assert (found.sizes.services, found.sizes.ports, found.sizes.endpoints) == (1, 1, 3)
    assert (today.figures.start_s(10_000), then.figures.start_s(10_000)) == (40.1, 194)
    assert then.counted.elements > 0 == today.counted.elements
    assert then.counted.one_change is not None and today.counted.one_change is not None
    assert then.counted.one_change < then.counted.first_sync
    # K-10: 10,000 Services cost 63 µs in iptables-legacy, 249 µs in iptables-nft, and 8 µs in nft
    by_tool = {**today.figures.first_packet_us(10_000), **then.figures.first_packet_us(10_000)}
    assert {tool: round(us) for tool, us in by_tool.items()} == {
        "iptables-legacy": 63,
        "iptables-nft": 248,
        "nft": 8,
    }


# ---------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("config", "target", "words"),
    [
        (CONFIG, "iptables", "in iptables mode already"),
        (CONFIG, "ipvs", "to ipvs"),
    ],
)
def test_a_change_of_which_nothing_is_known_is_refused(config: str, target: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        assess(cluster(MODERN, *WEB, config=config), target, same)


def test_the_way_back_keeps_node_ports_where_they_are() -> None:
    """NFT-1.8: unset, nftables mode serves the primary addresses; iptables mode would serve all."""
    found = assess(cluster(MODERN, *WEB, config=CONFIG + "mode: nftables\n"), "iptables", same)
    assert found.configuration.document["nodePortAddresses"] == ["primary"]
    assert "From nftables to iptables" in as_text(page(found))


def test_a_cluster_without_nodes_is_refused() -> None:
    with pytest.raises(InputError, match="kubectl get nodes"):
        assess(cluster(service("inside", f"clusterIP: 172.30.0.9, {port(80)}")), "nftables", same)
