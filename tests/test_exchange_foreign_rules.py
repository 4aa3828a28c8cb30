"""What traces say about the whole exchange where other programs' rules translate or drop, and of saved rules alone
(PP-1.6, PP-5, PP-11, CP-15, CT-3.1).
"""

import pytest
from exchange_cluster import EGRESS, NAT, SERVICES, beside, cluster_of, last_line, node, outcomes, service, sums

from kpsim.addresses import Family
from kpsim.dialects import dialect_reading
from kpsim.exchange import Verdict
from kpsim.explore import Cluster
from kpsim.explore.site import rules_site
from kpsim.packet import Packet
from kpsim.programmed import Programmed
from kpsim.tracing.probes import make_packet
from kpsim.tracing.site import Sender
from kpsim.tracing.traces import trace_packet


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return cluster_of(*(node(number) for number in (1, 2, 3)), *SERVICES)


# --- sources that other rules translate ------------------------------------------------------------------------------------


def test_what_egress_translates_is_passed_and_masqueraded(cluster: Cluster) -> None:
    cloud = beside(cluster, EGRESS)
    trace = cloud.trace("n1", "203.0.113.50:443", sender="pod", expand=True)
    assert trace.text("minimal").splitlines() == [
        "passed masqueraded as 192.168.0.1",
        "by nat/POSTROUTING -s 10.180.0.0/16 ! -d 10.180.0.0/16 -m comment --comment egress -j MASQUERADE",
        "exchange works (assumed)",  # what listens outside is not known
    ]
    probe = cloud.probe("n1", "203.0.113.50:443", sender="pod")
    assert (probe.exchange, probe.to_json()["assumed"]) == ({Verdict.WORKS: 1}, "1")
    assert "assumed" not in cloud.probe("n1", "172.30.0.10:80", sender="pod").to_json()
    [outcome] = outcomes(trace)
    assert (outcome["verdict"], outcome["masquerade"], outcome["seen"]["src"]) == ("works", True, "192.168.0.1")
    answer = cloud.probe("n1", "203.0.113.50:443", sender="pod", src="10.180.1.77:40000").to_json()
    assert {name: answer[name] for name in ("disposition", "outcomes", "by", "masquerade", "seen", "exchange")} == {
        "disposition": "passed", "outcomes": [], "by": None, "masquerade": True,
        "seen": {"src": "192.168.0.1", "sport": 40000, "dst": "203.0.113.50", "dport": 443}, "exchange": {"works": "1"},
    }  # fmt: skip
    kept = cluster.probe("n1", "203.0.113.50:443", sender="pod").to_json()
    assert "masquerade" not in kept


def test_egress_makes_a_pod_an_outside_client_of_another_node(cluster: Cluster) -> None:
    """PP-11.11, PP-5: n2 sees n1's address, so under Local only its own endpoint is drawn, and it answers."""
    cloud = beside(cluster, EGRESS)
    trace = cloud.trace("n1", "192.168.0.2:30010", sender="pod", src="10.180.1.77:40000", expand=True)
    [outcome] = outcomes(trace)
    assert (outcome["verdict"], outcome["endpoint"], outcome["masquerade"]) == ("works", "10.180.2.5:8080", True)
    assert outcome["seen"]["src"] == "192.168.0.1"
    dropped = cloud.trace("n1", "192.168.0.2:30018", sender="pod", expand=True)
    assert [(each["verdict"], each["node"]) for each in outcomes(dropped)] == [("request-lost", "n2")]


# --- other programs' destinations ------------------------------------------------------------------------------------------


def test_a_hairpin_of_another_program_without_masquerade(cluster: Cluster) -> None:
    """PP-1.6: kube-proxy masquerades its own; a port mapping that does not leaves its pod without answer."""
    mapped = beside(cluster, "-A PREROUTING -d 192.0.2.1/32 -p tcp --dport 80 -j DNAT --to-destination 10.180.1.5:8080")
    trace = mapped.trace("n1", "192.0.2.1:80", sender="pod", src="10.180.1.5:40000", expand=True)
    [outcome] = outcomes(trace)
    assert (outcome["verdict"], outcome["endpoint"], outcome["masquerade"]) == ("answer-lost", "10.180.1.5:8080", False)
    own = cluster.trace("n1", "172.30.0.10:80", sender="pod", src="10.180.1.5:40000", expand=True)
    assert sums(own) == {"works": "1"}
    assert [each["masquerade"] for each in outcomes(own)] == [True, False, False]


def test_another_programs_rule_that_takes_a_node_port_misdelivers() -> None:
    """A rule before kube-proxy's that sends a Service's node port to a pod of something else."""
    text = NAT.format(
        "-A PREROUTING -p tcp --dport 30010 -j DNAT --to-destination 10.180.1.77:8080\n-A PREROUTING -j KUBE-SERVICES"
    )
    text = text.replace(":PREROUTING", ":KUBE-SERVICES - [0:0]\n:PREROUTING")
    made = cluster_of(node(1), SERVICES[0])
    site = made.site_with(lambda _, family: Programmed.of(dialect_reading(text).parse(text, family)[0]))
    trace = trace_packet(site, make_packet("TCP", "192.168.0.1", 30010), node="n1", sender=Sender.EXTERNAL)
    assert sums(trace) == {"misdelivered": "1"}
    assert "10.180.1.77:8080 is no endpoint of the Service that it dialled" in last_line(trace)


def test_the_endpoint_of_another_port_of_the_service_is_none() -> None:
    two_ports = SERVICES[0].replace(
        "targetPort: 8080, nodePort: 30010}",
        "targetPort: 8080, nodePort: 30010}, {name: q, port: 81, targetPort: 9090}",
    )
    two_ports = two_ports.replace("port: 8080}]\nendpoints", "port: 8080}, {name: q, port: 9090}]\nendpoints")
    made = cluster_of(node(1), two_ports)
    for port, verdict in ((8080, "works"), (9090, "misdelivered")):
        text = NAT.format(f"-A PREROUTING -p tcp --dport 30010 -j DNAT --to-destination 10.180.1.5:{port}")
        site = made.site_with(lambda _, family, text=text: Programmed.of(dialect_reading(text).parse(text, family)[0]))
        trace = trace_packet(site, make_packet("TCP", "192.168.0.1", 30010), node="n1", sender=Sender.EXTERNAL)
        assert sums(trace) == {verdict: "1"}


def test_a_client_of_a_node_that_is_not_known_is_outside() -> None:
    made = cluster_of(node(1), service("web", 10, "10.180.1.5 n1"), service("far", 19, "10.180.9.5 n9"))
    assert sums(made.trace("n1", "172.30.0.10:80", sender="external", src="10.180.9.5:40000")) == {"works": "1"}


def test_a_rule_that_is_not_modelled_leaves_the_exchange_open(cluster: Cluster) -> None:
    """It stands in mangle, since kube-proxy's own rules accept what is ESTABLISHED before others in filter see it."""
    text = "*mangle\n:FORWARD ACCEPT [0:0]\n-A FORWARD -s 10.180.2.5 -m hashlimit --hashlimit-name x -j DROP\nCOMMIT\n"
    [foreign] = dialect_reading(text).parse(text, Family.IPV4, unknown="keep")
    trace = cluster.with_rules_beside(foreign, node="n2").trace(
        "n1", "172.30.0.10:80", sender="pod", src="10.180.1.77:40000", expand=True
    )
    assert sums(trace) == {"works": "2/3", "unknown": "1/3"}
    assert {each["endpoint"] for each in outcomes(trace) if each["verdict"] == "unknown"} == {"10.180.2.5:8080"}


# --- captures and saved rules -----------------------------------------------------------------------------------------------


def test_a_capture_remembers_requests_and_not_the_answers_that_it_has_itself() -> None:
    """CT-3.1: the server's datagram in the capture is the answer, and as such no question."""
    site = cluster_of(node(1), service("web", 10, "10.180.1.5 n1")).site
    dns = "-A PREROUTING -d 192.0.2.1/32 -p udp --dport 53 -j DNAT --to-destination 10.180.1.5:53"
    text = NAT.format(dns)
    site = rules_site(dialect_reading(text).parse(text)[0], node_ips=["192.168.0.1"], pod_cidrs=["10.180.1.0/24"])
    asked = make_packet("UDP", "192.0.2.1", 53, src="203.0.113.9", sport=5000)
    first = trace_packet(site, asked, node="n1", sender=Sender.EXTERNAL, commit=True)
    assert sums(first) == {"works": "1"}
    [entry] = site.netns("n1", Family.IPV4).conntrack
    assert not entry.seen_reply
    answer = Packet(Family.IPV4, "udp", entry.reply.saddr, entry.reply.daddr, entry.reply.sport, entry.reply.dport)
    second = trace_packet(site, answer, node="n1", sender=Sender.POD, commit=True)
    assert second.verdict == {}
    assert second.journey.packet.source == "192.0.2.1"


def test_saved_rules_alone_assume_that_everybody_answers() -> None:
    text = NAT.format("-A PREROUTING -d 172.30.0.10/32 -p tcp --dport 80 -j DNAT --to-destination 10.180.7.5:8080")
    site = rules_site(dialect_reading(text).parse(text)[0], node_ips=["192.168.0.1"], pod_cidrs=["10.180.1.0/24"])
    for sender, source in ((Sender.EXTERNAL, ""), (Sender.POD, ""), (Sender.PEER, "192.168.0.9")):
        packet = make_packet("TCP", "172.30.0.10", 80, src=source)
        trace = trace_packet(site, packet, node="n1", sender=sender, expand=True)
        assert sums(trace) == {"works": "1"}
        assert "if something listens there" in last_line(trace)
    refused = trace_packet(site, make_packet("TCP", "192.168.0.1", 22), node="n1", sender=Sender.EXTERNAL)
    assert sums(refused) == {"refused": "1"}


def test_saved_rules_tell_where_kube_proxy_listens_but_not_what_it_says(cluster: Cluster) -> None:
    """CP-15.2, CP-15.4: the count of local endpoints is in no rule."""
    [rules] = dialect_reading(saved := cluster.rules("n1", family=Family.IPV4)).parse(saved, Family.IPV4)
    site = rules_site(rules, node_ips=["192.168.0.1"], pod_cidrs=["10.180.1.0/24"])
    trace = trace_packet(site, make_packet("TCP", "192.168.0.1", 32010), node="n1", sender=Sender.EXTERNAL)
    assert sums(trace) == {"unknown": "1"}
    assert "200 or 503" in last_line(trace)
    closed = trace_packet(site, make_packet("UDP", "192.168.0.1", 32010), node="n1", sender=Sender.EXTERNAL)
    assert sums(closed) == {"refused": "1"}
