"""The judgement about a whole exchange: what the client gets, who decides it, by which rule (PP-5.5, PP-11, K-1.6, K-2.6,
K-3, K-7.3, K-8).
"""

from contextlib import suppress

import pytest
from three_nodes import BOTH, V4, V6, Plan, dnat, host, number, packet, parsed, rules, world
from worlds import ask

from kpsim.addresses import Family
from kpsim.conntrack import tuple_of
from kpsim.dialects import dialect_reading
from kpsim.exchange import Answers, Exchange, Http, Relay, Verdict, client_gets, exchange, is_request
from kpsim.exchange.client import error_of, refusal_of
from kpsim.packet import Numbers, Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.reject import answer_name
from kpsim.ruleset import RejectWith


def served(plan: Plan, *pods: str) -> dict[str, object]:
    """Facts: the Service has these endpoints."""
    return {"services": {(number(plan.service), 80): {(number(pod), 8080) for pod in pods}}}


def judged(answer: Exchange) -> tuple[str, str, str, str]:
    """Verdict, node, errno and the refusal's name."""
    return str(answer.verdict), answer.node, answer.told.error, answer.told.with_


# --- it works --------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_a_remote_endpoint_answers_through_the_node_that_translated(plan: Plan, protocol: str) -> None:
    """PP-11.2: n1 translates, n2 has the pod; the answer comes back over both and shows the Service's address."""
    there = world(plan, rules(plan, dnat(plan, plan.remote, protocol=protocol)), **served(plan, plan.remote))
    answer = ask(there, packet(plan, plan.pod, plan.service, protocol=protocol), "n1")
    assert judged(answer) == ("works", "n1", "", "")
    assert [hop.node for hop in answer.request.hops] == ["n1", "n2"]
    assert answer.answer is not None
    assert [hop.node for hop in answer.answer.hops] == ["n2", "n1"]
    assert answer.told.packet is not None
    assert (answer.told.packet.source, answer.told.packet.sport) == (plan.service, 80)
    assert answer.seen is not None
    assert (answer.seen.source, answer.masquerade) == (plan.pod, False)


@BOTH
def test_a_ping_is_answered_by_the_kernel_whatever_listens(plan: Plan) -> None:
    there = world(plan, closed=[(number(plan.remote), 0), (number(plan.nodes[1]), 0)])
    for destination in (plan.remote, plan.nodes[1]):
        answer = ask(there, packet(plan, plan.pod, destination, protocol="icmp"), "n1")
        assert judged(answer)[0] == "works"
        assert client_gets(answer) == f"an echo reply from {destination}"


@BOTH
def test_nothing_is_remembered_by_a_question(plan: Plan) -> None:
    there = world(plan, rules(plan, dnat(plan, plan.remote)))
    sent = packet(plan, plan.pod, plan.service)
    assert ask(there, sent, "n1").verdict is Verdict.WORKS
    assert [len(netns.conntrack) for netns in there.fabric.nodes.values()] == [0, 0, 0]
    exchange(there, sent, at_node="n1", now_ns=0, chooser=SeededChooser(1, 0))
    assert [len(netns.conntrack) for netns in there.fabric.nodes.values()] == [1, 1, 0]


@BOTH
def test_a_question_sees_what_the_nodes_remember(plan: Plan) -> None:
    """K-1.3: a connection keeps its endpoint, whatever the rules say since."""
    there = world(plan, rules(plan, dnat(plan, plan.remote)))
    sent = packet(plan, plan.pod, plan.service, protocol="udp")
    there.fabric.nodes["n1"].load_rules(parsed(plan, rules(plan, dnat(plan, plan.remote, protocol="udp"))))
    exchange(there, sent, at_node="n1", now_ns=0, chooser=SeededChooser(1, 0))
    there.fabric.nodes["n1"].load_rules(parsed(plan, rules(plan, dnat(plan, plan.third, protocol="udp"))))
    answer = ask(there, sent, "n1")
    assert answer.verdict is Verdict.WORKS
    assert answer.seen is not None
    assert answer.seen.destination == plan.remote


@BOTH
def test_a_source_that_the_cloud_rules_translate_comes_back(plan: Plan) -> None:
    egress = f"-A POSTROUTING -s {plan.pods} ! -d {plan.pods} -o eth0 -j MASQUERADE"
    answer = ask(world(plan, rules(plan, egress)), packet(plan, plan.pod, plan.client, 443), "n1")
    assert judged(answer) == ("works", "n1", "", "")
    assert answer.masquerade
    assert answer.seen is not None
    assert answer.seen.source == plan.nodes[0]


@BOTH
def test_the_answer_belongs_to_the_servers_process_and_not_to_the_clients(plan: Plan) -> None:
    """xt_owner on the server's node sees the server's socket."""
    mine = rules(plan, filters="-A OUTPUT -m owner --uid-owner 1000 -j DROP")
    sent = packet(plan, "", plan.nodes[1], 8080)
    sent.uid = 1000
    assert ask(world(plan, "", mine), sent, "n1", local=True).verdict is Verdict.WORKS
    assert ask(world(plan, mine), sent, "n1", local=True).verdict is Verdict.REQUEST_LOST


@BOTH
def test_a_request_with_numbers_is_answered_with_others(plan: Plan) -> None:
    """K-6.4: a SYN-ACK has a sequence number of its own and acknowledges the SYN's."""
    sent = packet(plan, plan.pod, plan.service)
    sent.numbers = Numbers(4_000_000_000)
    answer = ask(world(plan, rules(plan, dnat(plan, plan.remote))), sent, "n1")
    assert answer.verdict is Verdict.WORKS


@BOTH
def test_the_clients_own_node_knows_what_the_client_sent(plan: Plan) -> None:
    """K-6.3: seen from n1 on, a process of n2 has sent a SYN; so its node does not take the SYN-ACK for INVALID."""
    strict = rules(plan, filters="-A INPUT -m conntrack --ctstate INVALID -j DROP")
    there = world(plan, rules(plan, dnat(plan, plan.pod)), strict)
    assert ask(there, packet(plan, plan.nodes[1], plan.service), "n1").verdict is Verdict.WORKS


# --- it is refused ---------------------------------------------------------------------------------------------------------


@BOTH
def test_a_closed_port_is_reset_by_the_endpoint(plan: Plan) -> None:
    there = world(plan, rules(plan, dnat(plan, plan.remote)), closed=[(number(plan.remote), 8080)])
    answer = ask(there, packet(plan, plan.pod, plan.service), "n1")
    assert judged(answer) == ("refused", "n2", "ECONNREFUSED", "tcp-reset")
    assert answer.by is None
    assert "nothing listens at" in client_gets(answer)


@BOTH
def test_a_closed_udp_port_is_told_by_icmp_about_the_service(plan: Plan) -> None:
    """CT-5.3: the error is translated on the way back, so the client's socket knows it."""
    there = world(plan, rules(plan, dnat(plan, plan.remote, protocol="udp")), closed=[(number(plan.remote), 8080)])
    sent = packet(plan, plan.pod, plan.service, protocol="udp")
    answer = ask(there, sent, "n1")
    name = "icmp-port-unreachable" if plan.family is Family.IPV4 else "icmp6-port-unreachable"
    assert judged(answer) == ("refused", "n2", "ECONNREFUSED", name)
    assert answer.told.packet is not None
    assert answer.told.packet.related is not None
    assert tuple_of(answer.told.packet.related) == tuple_of(sent)


@BOTH
@pytest.mark.parametrize("local", [False, True])
def test_a_reject_of_the_first_node_names_the_rule(plan: Plan, local: bool) -> None:
    refuse = f"-A FORWARD -d {plan.service} -j REJECT\n-A OUTPUT -d {plan.service} -j REJECT"
    there = world(plan, rules(plan, filters=refuse))
    answer = ask(there, packet(plan, "" if local else plan.pod, plan.service), "n1", local=local)
    assert (answer.verdict, answer.node, answer.told.error) == (Verdict.REFUSED, "n1", "ECONNREFUSED")
    assert str(answer.by) == f"filter/{'OUTPUT' if local else 'FORWARD'} rule {1 if local else 2}"


@BOTH
def test_a_reset_that_leaves_by_the_bridges_port_fits_no_socket(plan: Plan) -> None:
    """K-3.1: it comes from the endpoint and not from the Service, so the client waits on."""
    refuse = f"-A FORWARD -p tcp -d {plan.neighbour} -j REJECT --reject-with tcp-reset"
    there = world(plan, rules(plan, dnat(plan, plan.neighbour), refuse))
    answer = ask(there, packet(plan, plan.pod, plan.service), "n1")
    assert judged(answer)[:3] == ("request-lost", "n1", "")
    assert f"the refusal is of no use to the client: it comes from {host(plan.neighbour)}:8080" in client_gets(answer)


@BOTH
def test_a_process_is_refused_by_its_system_call(plan: Plan) -> None:
    """K-3.2: a datagram that OUTPUT rejects or drops makes the send fail; a SYN that it drops hangs."""
    for target in ("REJECT", "DROP"):
        there = world(plan, rules(plan, filters=f"-A OUTPUT -d {plan.service} -j {target}"))
        datagram = ask(there, packet(plan, "", plan.service, protocol="udp"), "n1", local=True)
        assert judged(datagram)[:3] == ("refused", "n1", "EPERM")
    assert ask(there, packet(plan, "", plan.service), "n1", local=True).verdict is Verdict.REQUEST_LOST


def _names(family: Family) -> list[str]:
    """What REJECT can answer in a family, by iptables' names."""
    names = []
    for with_ in RejectWith:
        with suppress(KeyError):
            names.append(answer_name(family, with_))
    return names


_REJECTS = [(plan, name) for plan in (V4, V6) for name in _names(plan.family) if name != "tcp-reset"]


@pytest.mark.parametrize(("plan", "with_"), _REJECTS, ids=[name for _, name in _REJECTS])
def test_a_reject_of_the_second_node_comes_back_over_the_first(plan: Plan, with_: str) -> None:
    """CT-5.3, K-3: the error about the translated packet is translated back, and says what the socket knows."""
    refuse = f"-A FORWARD -d {plan.remote} -j REJECT --reject-with {with_}"
    there = world(plan, rules(plan, dnat(plan, plan.remote)), rules(plan, filters=refuse))
    answer = ask(there, packet(plan, plan.pod, plan.service), "n1")
    assert (answer.verdict, answer.node, answer.told.with_) == (Verdict.REFUSED, "n2", with_)
    assert answer.told.error
    assert str(answer.by) == "filter/FORWARD rule 2"


@BOTH
def test_soft_errors_are_no_error_of_a_datagram_socket(plan: Plan) -> None:
    """icmp_err_convert: only errors that are fatal reach a connected UDP socket without IP_RECVERR."""
    soft = "icmp-host-unreachable" if plan.family is Family.IPV4 else "icmp6-addr-unreachable"
    refuse = f"-A FORWARD -d {plan.service} -j REJECT --reject-with {soft}"
    there = world(plan, rules(plan, filters=refuse))
    assert judged(ask(there, packet(plan, plan.pod, plan.service), "n1"))[2] == "EHOSTUNREACH"
    assert judged(ask(there, packet(plan, plan.pod, plan.service, protocol="udp"), "n1"))[:3] == ("refused", "n1", "")


@BOTH
@pytest.mark.parametrize(("protocol", "error"), [("tcp", ""), ("udp", "EMSGSIZE")])
def test_a_packet_that_is_too_big(plan: Plan, protocol: str, error: str) -> None:
    """tcp_v4_err, udp_err: TCP sends shorter segments and tells nobody; a connected UDP socket reports it."""
    sent = packet(plan, plan.pod, plan.remote, 8080, protocol)
    icmp, kind, code = ("icmp", 3, 4) if plan.family is Family.IPV4 else ("icmpv6", 2, 0)
    told = Packet(plan.family, icmp, number(plan.nodes[0]), sent.saddr, icmp_type=kind, icmp_code=code, related=sent)
    assert refusal_of(sent, told)
    assert refusal_of(packet(plan, plan.pod, plan.remote, 8081, protocol), told) is None  # it is about another
    assert error_of(sent, told) == error


@BOTH
def test_nobody_behind_the_bridge_is_told_by_the_last_node(plan: Plan) -> None:
    """K-1.6: no neighbour answers, so the node of the endpoint says host unreachable, after seconds."""
    there = world(plan, rules(plan, dnat(plan, plan.remote)), absent=[number(plan.remote)])
    answer = ask(there, packet(plan, plan.pod, plan.service), "n1")
    assert judged(answer)[:3] == ("refused", "n2", "EHOSTUNREACH")


@BOTH
def test_http_that_is_not_200_is_a_refusal(plan: Plan) -> None:
    """CP-15.2: kube-proxy's health check answers 503 where the node has no local endpoint."""
    said = {
        status: Answers("kube-proxy", Http(status, f'{{\n\t"localEndpoints": {status}\n}}')) for status in (200, 503)
    }
    for status, verdict in ((200, Verdict.WORKS), (503, Verdict.REFUSED)):
        there = world(plan, answers={(number(plan.nodes[0]), 32080): said[status]})
        answer = ask(there, packet(plan, plan.client, plan.nodes[0], 32080), "n1")
        assert (answer.verdict, answer.told.http) == (verdict, said[status].http)
        assert f'HTTP {status} {{"localEndpoints": {status}}}' in client_gets(answer)
        assert "kube-proxy" in client_gets(answer)


# --- the request is lost ---------------------------------------------------------------------------------------------------


@BOTH
def test_a_drop_of_a_later_node_is_told_with_node_and_rule(plan: Plan) -> None:
    there = world(
        plan, rules(plan, dnat(plan, plan.remote)), rules(plan, filters=f"-A FORWARD -d {plan.remote} -j DROP")
    )
    answer = ask(there, packet(plan, plan.pod, plan.service), "n1")
    assert (judged(answer), str(answer.by)) == (("request-lost", "n2", "", ""), "filter/FORWARD rule 2")
    assert client_gets(answer) == ("nothing, until it gives up: the request was dropped on n2 by filter/FORWARD rule 2")


@BOTH
def test_what_leaves_for_nobody_is_lost(plan: Plan) -> None:
    """K-8.2: an address that no rule takes goes to the gateway."""
    answer = ask(world(plan), packet(plan, plan.pod, plan.service), "n1")
    assert judged(answer) == ("request-lost", "n1", "", "")
    assert "nobody has this address" in client_gets(answer)


@BOTH
def test_a_node_that_is_off_loses_what_comes(plan: Plan) -> None:
    there = world(plan, rules(plan, dnat(plan, plan.remote)), down=["n2"])
    answer = ask(there, packet(plan, plan.pod, plan.service), "n1")
    assert (judged(answer)[:2], answer.cause) == (("request-lost", "n2"), "the node is down")


@BOTH
def test_a_refusal_that_is_lost_on_its_way_leaves_the_client_without_word(plan: Plan) -> None:
    """K-3.2: the client is not told, so for it the request was lost."""
    icmp = "icmp" if plan.family is Family.IPV4 else "ipv6-icmp"
    refuse = f"-A FORWARD -d {plan.remote} -j REJECT"
    drop = f"-A FORWARD -p {icmp} -m conntrack --ctstate RELATED -j DROP"
    there = world(plan, rules(plan, dnat(plan, plan.remote), drop), rules(plan, filters=refuse))
    answer = ask(there, packet(plan, plan.pod, plan.service), "n1")
    assert (judged(answer)[:2], str(answer.by)) == (("request-lost", "n1"), "filter/FORWARD rule 2")


# --- the answer is lost ----------------------------------------------------------------------------------------------------


@BOTH
def test_a_detour_with_the_source_kept_makes_the_answer_miss_the_translation(plan: Plan) -> None:
    """PP-5.5: n2 translates to a pod of n3 and keeps the source, so the pod's answer goes straight to the client."""
    node_port = dnat(plan, plan.third, of=plan.nodes[1], port=30080)
    there = world(plan, "", rules(plan, node_port))
    for netns in there.fabric.nodes.values():  # otherwise n1 drops the answer, which it takes for INVALID
        if netns.name != "n2":
            netns.load_rules(parsed(plan, "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"))
    answer = ask(there, packet(plan, plan.pod, plan.nodes[1], 30080), "n1")
    assert judged(answer) == ("answer-lost", "n1", "", "")
    assert f"it comes from {host(plan.third)}:8080" in client_gets(answer)


@BOTH
def test_the_same_detour_ends_at_the_first_node_that_drops_invalid_packets(plan: Plan) -> None:
    """PP-5.5 with I-11."""
    there = world(plan, "", rules(plan, dnat(plan, plan.third, of=plan.nodes[1], port=30080)))
    answer = ask(there, packet(plan, plan.pod, plan.nodes[1], 30080), "n1")
    assert (judged(answer)[:2], str(answer.by)) == (("answer-lost", "n1"), "filter/FORWARD rule 1")


@BOTH
def test_the_detour_works_if_the_endpoint_is_on_the_node_that_translates(plan: Plan) -> None:
    """PP-5.5."""
    there = world(plan, "", rules(plan, dnat(plan, plan.remote, of=plan.nodes[1], port=30080)))
    assert judged(ask(there, packet(plan, plan.pod, plan.nodes[1], 30080), "n1"))[:2] == ("works", "n2")


@BOTH
def test_a_client_outside_that_an_endpoint_elsewhere_answers_directly(plan: Plan) -> None:
    """PP-11.12."""
    there = world(plan, rules(plan, dnat(plan, plan.remote, of=plan.nodes[0], port=30080)))
    answer = ask(there, packet(plan, plan.client, plan.nodes[0], 30080), "n1")
    assert judged(answer)[0] == "answer-lost"
    masqueraded = dnat(plan, plan.remote, of=plan.nodes[0], port=30080) + "\n-A POSTROUTING -o eth0 -j MASQUERADE"
    assert ask(world(plan, rules(plan, masqueraded)), answer.request.sent, "n1").verdict is Verdict.WORKS


@BOTH
@pytest.mark.parametrize(("bridge_nf", "verdict"), [(True, Verdict.WORKS), (False, Verdict.ANSWER_LOST)])
def test_answers_between_pods_of_one_bridge(plan: Plan, bridge_nf: bool, verdict: Verdict) -> None:
    """K-2.6: without bridge-nf they are switched unseen, and show the endpoint's address."""
    there = world(plan, rules(plan, dnat(plan, plan.neighbour)), bridge_nf=bridge_nf)
    assert ask(there, packet(plan, plan.pod, plan.service), "n1").verdict is verdict


@BOTH
@pytest.mark.parametrize("masquerade", [True, False])
def test_a_pod_that_reaches_itself(plan: Plan, masquerade: bool) -> None:
    """PP-1.6: a hairpin needs a masquerade."""
    nat = dnat(plan, plan.pod)
    if masquerade:
        nat += f"\n-A POSTROUTING -s {plan.pod} -d {plan.pod} -j MASQUERADE"
    answer = ask(world(plan, rules(plan, nat)), packet(plan, plan.pod, plan.service), "n1")
    assert answer.verdict is (Verdict.WORKS if masquerade else Verdict.ANSWER_LOST)
    assert answer.seen is not None
    assert answer.seen.source == (plan.masquerading if masquerade else plan.pod)
    assert masquerade or plan.pod in client_gets(answer)


@BOTH
def test_a_reset_that_is_dropped_is_a_lost_answer(plan: Plan) -> None:
    there = world(
        plan, rules(plan, dnat(plan, plan.remote), "-A FORWARD -p tcp --tcp-flags RST RST -j DROP"),
        closed=[(number(plan.remote), 8080)],
    )  # fmt: skip
    answer = ask(there, packet(plan, plan.pod, plan.service), "n1")
    assert (judged(answer)[:2], str(answer.by)) == (("answer-lost", "n1"), "filter/FORWARD rule 2")


@BOTH
def test_an_answer_that_goes_to_the_owner_of_a_borrowed_address(plan: Plan) -> None:
    """A process that sends with the address of a pod: the pod gets the answer."""
    answer = ask(world(plan), packet(plan, plan.neighbour, plan.remote, 8080), "n1", local=True)
    assert judged(answer)[0] == "answer-lost"
    assert f"it goes to the pod {plan.neighbour} and not to it" in client_gets(answer)


# --- somebody else answers -------------------------------------------------------------------------------------------------


@BOTH
def test_an_answer_of_no_endpoint_is_misdelivered(plan: Plan) -> None:
    there = world(plan, rules(plan, dnat(plan, plan.third)), **served(plan, plan.remote))
    answer = ask(there, packet(plan, plan.pod, plan.service), "n1")
    assert judged(answer)[:2] == ("misdelivered", "n1")
    assert f"{host(plan.third)}:8080 is no endpoint of the Service" in client_gets(answer)


@BOTH
def test_the_right_address_with_another_port_is_misdelivered(plan: Plan) -> None:
    there = world(plan, rules(plan, dnat(plan, plan.remote, target=9090)), **served(plan, plan.remote))
    assert ask(there, packet(plan, plan.pod, plan.service), "n1").verdict is Verdict.MISDELIVERED


@BOTH
def test_a_process_that_answers_at_a_frontend_that_no_rule_takes(plan: Plan) -> None:
    there = world(plan, services={(number(plan.nodes[0]), 30080): {(number(plan.pod), 8080)}})
    assert judged(ask(there, packet(plan, plan.client, plan.nodes[0], 30080), "n1"))[:2] == ("misdelivered", "n1")


@BOTH
def test_an_endpoint_that_is_a_node_port_is_followed_to_its_own_endpoint(plan: Plan) -> None:
    """Each translation is held against the Service that was dialled there."""
    services = {
        (number(plan.service), 80): {(number(plan.nodes[1]), 30080)},
        (number(plan.nodes[1]), 30080): {(number(plan.remote), 8080)},
    }
    there = world(
        plan, rules(plan, dnat(plan, plan.nodes[1], target=30080)),
        rules(plan, dnat(plan, plan.remote, of=plan.nodes[1], port=30080)), services=services,
    )  # fmt: skip
    answer = ask(there, packet(plan, plan.pod, plan.service), "n1")
    assert judged(answer)[:2] == ("works", "n2")
    assert answer.seen is not None
    assert answer.seen.destination == plan.remote
    services[number(plan.nodes[1]), 30080] = {(number(plan.third), 8080)}
    assert ask(there, packet(plan, plan.pod, plan.service), "n1").verdict is Verdict.MISDELIVERED


# --- a load balancer between -----------------------------------------------------------------------------------------------


@BOTH
def test_a_load_balancer_takes_the_request_and_dials_a_node_port(plan: Plan) -> None:
    """PP-11.10."""
    node_port = dnat(plan, plan.remote, of=plan.nodes[1], port=30080)
    inner = packet(plan, plan.client, plan.nodes[1], 30080)
    dialled = plan.clients.replace("0/24", "20").replace("::/48", "::20")
    relay = Relay("load balancer", (("n2", inner),))
    there = world(plan, "", rules(plan, node_port), answers={(number(dialled), 80): relay})
    answer = ask(there, packet(plan, plan.pod, dialled), "n1")
    assert judged(answer)[:2] == ("works", "n2")
    assert answer.seen is not None
    assert (answer.seen.source, answer.seen.destination) == (plan.client, plan.remote)
    assert answer.told.packet is not None
    assert answer.told.packet.source == dialled
    drop = rules(plan, node_port, f"-A FORWARD -d {plan.remote} -j DROP")
    there.fabric.nodes["n2"].load_rules(parsed(plan, drop))
    assert judged(ask(there, packet(plan, plan.pod, dialled), "n1"))[:2] == ("request-lost", "n2")


# --- what is not modelled, and what is no question --------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("way", ["request", "answer"])
def test_a_rule_that_is_not_modelled_leaves_the_verdict_open(plan: Plan, way: str) -> None:
    end = "-d" if way == "request" else "-s"
    text = rules(
        plan, filters=f"-A FORWARD {end} {plan.remote} -m hashlimit --hashlimit-upto 1/s --hashlimit-name x -j DROP"
    )
    there = world(plan)
    [loaded] = dialect_reading(text).parse(text, plan.family, unknown="keep")
    there.fabric.nodes["n2"].load_rules(loaded)
    answer = ask(there, packet(plan, plan.pod, plan.remote, 8080), "n1")
    assert judged(answer)[:2] == ("unknown", "n2")
    assert "hashlimit" in client_gets(answer)


def test_what_is_a_request() -> None:
    def tcp(*flags: str) -> Packet:
        return Packet(Family.IPV4, "tcp", 1, 2, 3, 4, frozenset(flags))

    assert is_request(tcp("SYN"))
    assert not any(map(is_request, (tcp("SYN", "ACK"), tcp("ACK"), tcp("RST"), tcp("FIN", "ACK"))))
    assert is_request(Packet(Family.IPV4, "udp", 1, 2, 3, 4))
    assert is_request(Packet(Family.IPV4, "icmp", 1, 2, 3, icmp_type=8))
    assert not is_request(Packet(Family.IPV4, "icmp", 1, 2, 3, icmp_type=0))
    assert not is_request(Packet(Family.IPV4, "icmp", 1, 2, icmp_type=3, icmp_code=3, related=tcp("SYN")))
    assert not is_request(Packet(Family.IPV4, "sctp", 1, 2, 3, 4, sctp_chunk="DATA"))
