"""The basic values: addresses as Kubernetes reads them, durations as Go writes them, and draws."""

import pytest

from kpsim.addresses import (
    Family,
    canonical_ip,
    host_network,
    join_host_port,
    parse_cidr,
    parse_ip,
    parse_network,
    split_host_port,
)
from kpsim.kubeproxy.metrics import Metrics
from kpsim.rng import Draws, below, draw64, uniform
from kpsim.units import format_duration, format_rfc3339, parse_duration_ns, parse_rfc3339_ns


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.180.0.3", "10.180.0.3"),
        ("010.001.0.2", "10.1.0.2"),  # O-5.3: leading zeros are decimal
        ("fd00:0:0::0009", "fd00::9"),
        ("FD00::A", "fd00::a"),
        ("::ffff:10.1.2.3", "10.1.2.3"),  # Go's net.IP makes no difference
        ("::", "::"),
        ("10.180.0", None),
        ("10.180.0.256", None),
        ("10.180.0.3/24", None),
        (" 10.180.0.3", None),
        ("10.180.0.-1", None),
        ("١.2.3.4", None),  # digits of another script
        ("fe80::1%eth0", None),
        ("web", None),
        ("", None),
    ],
)
def test_addresses_are_read_leniently_and_printed_canonically(text: str, canonical: str | None) -> None:
    assert canonical_ip(text) == canonical


def test_family_of_an_address_is_asked_for() -> None:
    assert canonical_ip("10.0.0.1", Family.IPV6) is None
    assert canonical_ip("fd00::1", Family.IPV6) == "fd00::1"
    assert [Family.from_label(family.label) for family in Family] == list(Family)
    with pytest.raises(ValueError, match="IPv5"):
        Family.from_label("IPv5")


def test_networks_lose_their_host_bits() -> None:  # O-5.4
    network = parse_network("203.0.113.77/25")
    assert str(network) == "203.0.113.0/25"
    assert network is not None
    inside, outside = parse_ip("203.0.113.127"), parse_ip("203.0.113.128")
    assert inside is not None
    assert outside is not None
    assert inside[1] in network
    assert outside[1] not in network
    assert parse_cidr("192.168.0.2/24") == (parse_network("192.168.0.0/24"), 192 << 24 | 168 << 16 | 2)
    assert [parse_network(text) for text in ("10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/x", "/8")] == [
        None
    ] * 5


def test_a_host_is_a_network_of_one() -> None:
    assert host_network("10.180.0.3") == parse_network("10.180.0.3/32")
    assert str(host_network("10.180.0.3")) == "10.180.0.3/32"
    assert str(host_network("fd00::3")) == "fd00::3/128"


def test_ends_in_text() -> None:  # O-6.3
    for ip, text in (("10.180.0.3", "10.180.0.3:80"), ("fd00::3", "[fd00::3]:80")):
        assert join_host_port(ip, 80) == text
        assert split_host_port(text) == (ip, 80)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("30s", 30_000_000_000),
        ("1h2m3.5s", 3_723_500_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("100us", 100_000),
        ("100µs", 100_000),
        ("-2ms", -2_000_000),
        ("+2ms", 2_000_000),
        ("1ns", 1),
    ],
)
def test_durations_are_read_as_go_reads_them(text: str, ns: int) -> None:
    assert parse_duration_ns(text) == ns


@pytest.mark.parametrize("text", ["", "30", "s", "1d", "1s 2s", "1e3s", "--1s", ".s", "5 s"])
def test_what_go_does_not_take_for_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration_ns(text)


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0s"), (1_500_000_000, "1.5s"), (20_000_000, "20ms"), (3_600_000_000_000, "1h"), (90_000_000_000, "90s"),
     (120_000_000_000, "2m"), (1_000, "1µs"), (7, "7ns"), (-1_500_000, "-1.5ms")],
)  # fmt: skip
def test_durations_are_printed_exactly(ns: int, text: str) -> None:
    assert format_duration(ns) == text
    assert parse_duration_ns(text) == ns


def test_instants() -> None:
    assert parse_rfc3339_ns("1970-01-01T00:00:01.25Z") == 1_250_000_000
    assert parse_rfc3339_ns("2026-01-01T01:00:00+01:00") == parse_rfc3339_ns("2026-01-01T00:00:00Z")
    assert format_rfc3339(parse_rfc3339_ns("2026-01-01T00:46:57.000000001Z")) == "2026-01-01T00:46:57.000000001Z"
    assert format_rfc3339(parse_rfc3339_ns("2026-01-01T00:46:57Z")) == "2026-01-01T00:46:57Z"
    for text in ("", "2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "yesterday"):
        with pytest.raises(ValueError, match=r"time|month"):
            parse_rfc3339_ns(text)


def test_a_draw_is_a_function_of_seed_and_key_alone() -> None:
    assert draw64(1, "flow", 7) == draw64(1, "flow", 7)
    assert len({draw64(seed, key) for seed in (1, 2) for key in ("a", "b", ("a", "b"), 7, "7")}) == 10


def test_draws_are_uniform() -> None:
    draws = 20_000
    counts = [0] * 7
    for number in range(draws):
        counts[below(7, 3, number)] += 1
    expected = draws / 7
    chi_squared = sum((count - expected) ** 2 / expected for count in counts)
    assert chi_squared < 22.5  # 6 degrees of freedom: one in a thousand is larger
    mean = sum(uniform(3, number) for number in range(draws)) / draws
    assert abs(mean - 0.5) < 0.01  # five standard deviations


def test_metrics_have_their_labels_in_order_and_appear_when_used() -> None:  # O-9, I-15
    metrics = Metrics()
    assert set(metrics.snapshot().values()) == {0}
    assert len(metrics.snapshot()) == 4
    metrics.add("failures_total", ip_family="IPv4")
    metrics.add("failures_total", 2, ip_family="IPv4")
    metrics.set("rules", 3, table="nat", ip_family="IPv6")
    found = metrics.snapshot()
    assert found['kubeproxy_failures_total{ip_family="IPv4"}'] == 3
    assert found['kubeproxy_rules{ip_family="IPv6",table="nat"}'] == 3


def test_draws_that_begin_alike_are_the_same_draws() -> None:
    for flow in (7, "flow", ("a", 7)):
        for key in ("x", ("x", 1), 3):
            assert Draws(5, flow).draw64(key) == draw64(5, flow, key)
