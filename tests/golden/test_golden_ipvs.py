"""Compares replays of recordings of a real kube-proxy 1.36.2 in ipvs mode with what that kube-proxy programmed.

As ``test_golden``, for the third mode: virtual servers, ipsets, addresses, draining servers and iptables rules. ip_vs
itself was a stand-in when they were recorded, so they say nothing of packets.
"""

import copy
from collections.abc import Callable

import pytest
from golden.recorded import Account, Recorded

from kpsim.comparison.documents import run_differences

RECORDED = Recorded("ipvs")
expected, replayed = RECORDED.expected, RECORDED.replayed


@pytest.mark.parametrize("name", RECORDED.names)
def test_replay(name: str) -> None:
    assert run_differences(expected(name), replayed(name)) == []
    assert expected(name) == replayed(name)


# --------------------------------------------------------------------------------------------------- guards of the comparison


def drop_server(shown: Account) -> None:
    shown["virtualServers"].pop()


def change_weight(shown: Account) -> None:
    next(each for each in shown["virtualServers"] if each["realServers"])["realServers"][0]["weight"] += 1


def drop_entry(shown: Account) -> None:
    next(each for each in shown["ipsets"] if each["entries"])["entries"].pop()


def drop_address(shown: Account) -> None:
    shown["boundAddresses"].pop()


def drain(shown: Account) -> None:
    shown["gracefulTerminating"].append("10.0.0.1:80/TCP/10.0.0.2:80")


def drop_rule(shown: Account) -> None:
    shown["iptables"]["save"] = shown["iptables"]["save"].replace("-A KUBE-SOURCE-RANGES-FIREWALL -j DROP\n", "")


@pytest.mark.parametrize("edit", [drop_server, change_weight, drop_entry, drop_address, drain, drop_rule])
def test_a_difference_is_told(edit: Callable[[Account], None]) -> None:
    altered = copy.deepcopy(expected("special-011"))
    edit(altered[4]["ipvs"])
    told = run_differences(altered, replayed("special-011"))
    assert told and all(statement.startswith("sync 4: ") for statement in told)
