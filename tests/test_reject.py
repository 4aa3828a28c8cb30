"""The answers to refused packets, and the packets that are never answered (K-3, CT-9)."""

import pytest
from packets import CLIENT, NODE, POD, flags, ip, packet

from kpsim.addresses import Family
from kpsim.packet import Packet
from kpsim.packetpath.reject import ICMP_ERRORS, answer, answer_name, error_of_drop, error_of_reject
from kpsim.ruleset import RejectWith

#: by iptables' names; type and code as RFC 792, 1812 5.2.7.1 and 4443 number them
NUMBERS = {
    "icmp-net-unreachable": (3, 0), "icmp-host-unreachable": (3, 1), "icmp-proto-unreachable": (3, 2),
    "icmp-port-unreachable": (3, 3), "icmp-net-prohibited": (3, 9), "icmp-host-prohibited": (3, 10),
    "icmp-admin-prohibited": (3, 13), "icmp-time-exceeded": (11, 0),
    "icmp6-no-route": (1, 0), "icmp6-adm-prohibited": (1, 1), "icmp6-addr-unreachable": (1, 3),
    "icmp6-port-unreachable": (1, 4), "icmp6-policy-fail": (1, 5), "icmp6-reject-route": (1, 6),
    "icmp6-time-exceeded": (3, 0),
}  # fmt: skip
CLIENT6, POD6, NODE6 = "2001:db8:71::9", "fd00:180::5", "2001:db8::1"


@pytest.mark.parametrize("name", NUMBERS)
def test_an_error_is_told_from_the_node_about_the_packet(name):  # K-3.1
    six = name.startswith("icmp6")
    client, pod, node = (CLIENT6, POD6, NODE6) if six else (CLIENT, POD, NODE)
    sent = packet(client, pod, protocol="udp")
    told = answer(sent, name, ip(node))
    assert told is not None
    assert (told.protocol, told.source, told.destination) == ("icmpv6" if six else "icmp", node, client)
    assert ((told.icmp_type, told.icmp_code), told.related) == (NUMBERS[name], sent)


def test_every_error_has_its_number():
    assert ICMP_ERRORS.keys() == NUMBERS.keys()


@pytest.mark.parametrize(
    ("with_", "four", "six"),  # RFC 792, 1812 5.2.7.1 and 4443; which family has which: iptables-extensions(8), REJECT
    [
        (RejectWith.NO_ROUTE, (3, 0), (1, 0)), (RejectWith.HOST_UNREACHABLE, (3, 1), (1, 3)),
        (RejectWith.PROTOCOL_UNREACHABLE, (3, 2), None), (RejectWith.PORT_UNREACHABLE, (3, 3), (1, 4)),
        (RejectWith.NET_PROHIBITED, (3, 9), None), (RejectWith.HOST_PROHIBITED, (3, 10), None),
        (RejectWith.ADMIN_PROHIBITED, (3, 13), (1, 1)), (RejectWith.POLICY_FAIL, None, (1, 5)),
        (RejectWith.REJECT_ROUTE, None, (1, 6)),
    ],
)  # fmt: skip
def test_what_a_rule_answers_with_has_a_number_in_its_families(with_, four, six):
    for family, numbers in ((Family.IPV4, four), (Family.IPV6, six)):
        if numbers is None:
            with pytest.raises(KeyError):
                answer_name(family, with_)
        else:
            assert NUMBERS[answer_name(family, with_)] == numbers
        assert answer_name(family, RejectWith.TCP_RESET) == "tcp-reset"


@pytest.mark.parametrize(
    (
        "segment",
        "reset",
    ),  # RFC 9293 3.10.7.1: what acknowledges is reset at its own number, what does not is acknowledged
    [("SYN", "RST ACK"), ("ACK", "RST"), ("SYN ACK", "RST"), ("FIN ACK", "RST"), ("FIN", "RST ACK")],
)
def test_a_reset_comes_from_the_port_that_was_asked(segment, reset):  # K-3.1
    told = answer(packet(CLIENT, POD, 80, tcp_flags=flags(segment)), "tcp-reset", ip(NODE))
    assert told is not None
    assert (told.protocol, told.source, told.sport, told.destination, told.dport) == ("tcp", POD, 80, CLIENT, 40000)
    assert told.tcp_flags == flags(reset)


@pytest.mark.parametrize(
    "sent",
    [
        packet(CLIENT, POD, checksum_ok=False),
        packet(CLIENT, POD, tcp_flags=flags("RST")),
        packet(CLIENT, POD, tcp_flags=flags("RST ACK")),
        packet(CLIENT, POD, protocol="udp"),
    ],
    ids=["bad checksum", "reset", "reset that acknowledges", "not TCP"],
)
def test_what_is_never_reset(sent):  # K-3.3
    assert answer(sent, "tcp-reset", ip(NODE)) is None


@pytest.mark.parametrize("family", Family)
def test_errors_are_never_about_errors(family):
    """K-3.3, RFC 1122 3.2.2 and RFC 4443 2.4: only queries and their answers may be refused by an error."""
    icmp, with_ = ("icmp", "icmp-port-unreachable") if family is Family.IPV4 else ("icmpv6", "icmp6-port-unreachable")
    source, destination, node = (CLIENT, POD, NODE) if family is Family.IPV4 else (CLIENT6, POD6, NODE6)

    def answered(kind: int) -> bool:
        sent = Packet(family, icmp, ip(source), ip(destination), icmp_type=kind)
        return answer(sent, with_, ip(node)) is not None

    queries = (0, 8, 13, 14, 15, 16, 17, 18) if family is Family.IPV4 else (128, 129, 139, 140, 255)
    errors = (3, 4, 5, 11, 12) if family is Family.IPV4 else (1, 2, 3, 4, 127)
    assert all(map(answered, queries))
    assert not any(map(answered, errors))
    about = packet(destination, source)
    told_of = Packet(family, icmp, ip(source), ip(destination), icmp_type=queries[-1], related=about)
    assert answer(told_of, with_, ip(node)) is None


def test_a_node_without_address_says_nothing_but_a_reset_needs_none():
    assert answer(packet(CLIENT, POD), "icmp-port-unreachable", None) is None
    assert answer(packet(CLIENT, POD), "tcp-reset", None) is not None
    assert answer(packet(CLIENT, POD, checksum_ok=False), "icmp-port-unreachable", ip(NODE)) is None


@pytest.mark.parametrize(
    ("protocol", "in_output", "reject", "drop"),  # CT-9, K-3.2
    [("tcp", True, "ECONNREFUSED", ""), ("tcp", False, "ECONNREFUSED", ""),
     ("udp", True, "EPERM", "EPERM"), ("udp", False, "ECONNREFUSED", "")],
)  # fmt: skip
def test_what_a_system_call_says(protocol, in_output, reject, drop):
    sent = packet(NODE, POD, protocol=protocol)
    assert error_of_reject(sent, in_output=in_output) == reject
    assert error_of_drop(sent, in_output=in_output) == drop
