"""Kernel settings by their own names: which values are allowed, in which unit, and what a lab makes of them."""

from dataclasses import fields

import pytest

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.lab.node import sysctl_values
from kpsim.sysctls import SETTINGS, Sysctls, complaint
from kpsim.units import SECOND_NS

UDP = "net.netfilter.nf_conntrack_udp_timeout"
GRE = ("net.netfilter.nf_conntrack_gre_timeout", "net.netfilter.nf_conntrack_gre_timeout_stream")


def test_every_field_has_one_name() -> None:
    assert sorted(setting.field for setting in SETTINGS.values()) == sorted(field.name for field in fields(Sysctls))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (UDP, 5, Sysctls(udp_timeout_ns=5 * SECOND_NS)),
        ("net.netfilter.nf_conntrack_sctp_timeout_shutdown_recd", 7, Sysctls(sctp_timeout_shutdown_recd_ns=7 * SECOND_NS)),
        ("net.netfilter.nf_conntrack_max", 0, Sysctls(nf_conntrack_max=0)),
        ("net.ipv4.conf.all.rp_filter", 2, Sysctls(rp_filter=2)),
        ("net.ipv4.conf.all.route_localnet", 1, Sysctls(route_localnet=True)),
        ("net.netfilter.nf_conntrack_tcp_loose", 0, Sysctls(tcp_loose=False)),
        ("net.bridge.bridge-nf-call-ip6tables", 0, Sysctls(bridge_nf_call_ip6tables=False)),
    ],
)  # fmt: skip
def test_values_are_in_the_kernel_s_unit(name: str, value: int, expected: Sysctls) -> None:
    written = Sysctls().written({name: value})
    assert written == expected
    assert SETTINGS[name].of(written) == value


def test_a_bridge_calls_netfilter_for_each_family() -> None:
    sysctls = Sysctls().written({"net.bridge.bridge-nf-call-iptables": 0})
    assert [sysctls.bridges_call_netfilter(family) for family in Family] == [False, True]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("net.netfilter.nf_conntrack_udp_timout", 5, f"did you mean '{UDP}'?"),
        ("nf_conntrack_udp_timeout", 5, f"no kernel setting 'nf_conntrack_udp_timeout' is modelled; did you mean '{UDP}'?"),
        ("net.ipv4.conf.eth0.rp_filter", 1, "did you mean 'net.ipv4.conf.all.rp_filter'?"),
        ("vm.swappiness", 1, "no kernel setting 'vm.swappiness' is modelled"),
        (UDP, -1, f"{UDP}: expected a number from 0 to 2147483 seconds, got -1"),
        ("net.ipv4.conf.all.rp_filter", 3, "net.ipv4.conf.all.rp_filter: expected a number from 0 to 2, got 3"),
        ("net.netfilter.nf_conntrack_tcp_loose", 2, "expected a number from 0 to 1, got 2"),
        (UDP, 5, ""),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_named(name: str, value: int, expected: str) -> None:
    words = complaint(name, value)
    assert words.endswith(expected) and bool(words) == bool(expected)
    if expected:
        with pytest.raises(InputError, match=name):
            Sysctls().written({name: value})


def test_a_kernel_that_lacks_a_setting_needs_no_default_of_it() -> None:
    def without_gre(name: str) -> bool:
        return name not in GRE

    found = sysctl_values(Sysctls(udp_timeout_ns=9 * SECOND_NS, nf_conntrack_max=7), without_gre)
    assert found[UDP] == 9
    assert not set(GRE) & set(found)
    assert "net.netfilter.nf_conntrack_max" not in found  # of all namespaces
    assert sysctl_values(Sysctls(gre_timeout_ns=SECOND_NS), without_gre)[GRE[0]] == 1  # is missed when it is set
