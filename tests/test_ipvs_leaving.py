"""What a kube-proxy does to ip_vs when it starts, in ipvs mode or in another (IPVS-2.2, IPVS-9.3, CFG-6)."""

from dataclasses import replace

import pytest
from ipvs_rigs import (
    FOREIGN_IP,
    key,
    node_port_rig,
    web_rig,
    with_server,
)
from proxiers import Rig, make_settings, service

from kpsim.addresses import Family
from kpsim.backends.table import make_backend
from kpsim.config import Mode
from kpsim.ipvs.servers import VirtualServer
from kpsim.ipvs.states import Timeouts
from kpsim.maps import Map
from kpsim.programmed import Programmed
from kpsim.ruleset import Chain, Goto, Jump, Lookup, Rule, Set, SetReference
from kpsim.units import SECOND_NS


def test_timeouts_are_set_at_the_start() -> None:  # IPVS-2.2
    assert web_rig().proxier.held.ipvs_timeouts == Timeouts()
    rig = web_rig(ipvs_tcp_timeout_ns=1_900_000_000, ipvs_udp_timeout_ns=7 * SECOND_NS)
    assert rig.proxier.held.ipvs_timeouts == Timeouts(tcp_s=1, udp_s=7)


def of_other_mode(mode: Mode, held: Programmed) -> Programmed:
    """What the kernel holds once kube-proxy has started in another mode."""
    return make_backend(make_settings(held.family, mode=mode)).start(held)


def test_another_mode_leaves_what_is_not_its_own_unless_it_is_nftables() -> None:  # CFG-6
    held = web_rig().sync().held
    after = of_other_mode(Mode.IPTABLES, held)
    assert (after.virtual_servers, after.ipsets, after.local_addresses) == (
        held.virtual_servers, held.ipsets, held.local_addresses,
    )  # fmt: skip
    nftables = Rig(mode=Mode.NFTABLES)
    nftables.apply(service())
    assert of_other_mode(Mode.IPVS, nftables.sync().held).ruleset.in_order() == []


def test_nftables_mode_removes_ipvs_mode() -> None:  # IPVS-9.3
    held = web_rig().sync().held
    foreign = with_server(held, key(FOREIGN_IP), VirtualServer("rr", 32))
    after = of_other_mode(Mode.NFTABLES, foreign)
    assert (after.virtual_servers, after.local_addresses, after.ipsets) == (Map(), Map(), Map())
    assert kube_proxys_chains(after) == {}
    assert all(not chain.rules for table in after.ruleset.in_order() for chain in table.ordered())


def with_rules(held: Programmed, table_name: str, chain: str, *rules: Rule, instead: bool = False) -> Programmed:
    """The kernel with further rules in a chain, or with these alone."""
    table = held.ruleset.table(table_name)
    old = table.chains[chain]
    kept = () if instead else old.rules
    changed = replace(table, chains=table.chains.set(chain, Chain(chain, (*kept, *rules), old.base)))
    return replace(held, ruleset=replace(held.ruleset, tables=held.ruleset.tables.set(table.key, changed)))


def kube_proxys_chains(held: Programmed) -> dict[str, tuple[Rule, ...]]:
    tables = held.ruleset.in_order()
    return {name: chain.rules for table in tables for name, chain in table.chains.items() if name.startswith("KUBE")}


def test_a_machine_without_ipvs_mode_stays_as_it_is() -> None:  # IPVS-9.3
    for family in Family:
        nothing = Programmed.nothing(family)
        assert of_other_mode(Mode.NFTABLES, nothing) == nothing
    held = web_rig().sync().held
    nat = held.ruleset.table("nat")
    bare = replace(nat, chains=Map({name: each for name, each in nat.chains.items() if name != "OUTPUT"}))
    other = replace(
        held,
        ruleset=replace(held.ruleset, tables=held.ruleset.tables.set(nat.key, bare)),
        local_addresses=held.local_addresses.set(1, "dummy0"),
    )
    after = of_other_mode(Mode.NFTABLES, other)
    assert kube_proxys_chains(after) == {} and after.local_addresses == Map({1: "dummy0"})
    assert after.ruleset.table("nat").chains["PREROUTING"].base == nat.chains["PREROUTING"].base


def test_the_sets_of_ipv6_stay() -> None:  # IPVS-9.3
    after = of_other_mode(Mode.NFTABLES, node_port_rig(Family.IPV6).sync().held)
    assert (len(after.ipsets), len(after.virtual_servers)) == (17, 0)


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        (SetReference("KUBE-CLUSTER-IP", of_namespace=True), {"KUBE-CLUSTER-IP"}),
        (SetReference("KUBE-CLUSTER-IP"), set()),  # one of nft
        (Set(), set()),  # one without a name
    ],
)
def test_a_set_that_a_rule_looks_up_stays(asked: SetReference | Set, left: set[str]) -> None:
    held = web_rig().sync().held
    asks = held.ruleset.table("filter").chains["KUBE-IPVS-FILTER"].rules[1]
    (lookup, *rest) = asks.body
    assert isinstance(lookup, Lookup)
    own = replace(asks, body=(replace(lookup, set=asked), *rest))
    after = of_other_mode(Mode.NFTABLES, with_rules(held, "filter", "FORWARD", own))
    assert set(after.ipsets) == left
    assert [rule for chain in after.ruleset.table("filter").ordered() for rule in chain.rules] == [own]


@pytest.mark.parametrize("leads", [Jump, Goto])
def test_rules_of_another_program_that_lead_to_kube_proxys_chains_keep_them(leads: type[Jump | Goto]) -> None:
    held = web_rig().sync().held
    own = Rule((leads("KUBE-SERVICES"),))
    assert kube_proxys_chains(of_other_mode(Mode.NFTABLES, with_rules(held, "nat", "PREROUTING", own))) == {
        "KUBE-SERVICES": ()
    }


def test_each_clean_up_deletes_a_jump_once() -> None:
    held = web_rig().sync().held
    jumps = held.ruleset.table("nat").chains["PREROUTING"].rules
    thrice = with_rules(held, "nat", "PREROUTING", *jumps * 3, instead=True)
    after = of_other_mode(Mode.NFTABLES, thrice)
    # that of ipvs mode and that of iptables mode
    assert after.ruleset.table("nat").chains["PREROUTING"].rules == jumps
    assert kube_proxys_chains(after) == {"KUBE-SERVICES": ()}
