"""What a kube-proxy does to ip_vs when it starts, in ipvs mode or in another (IPVS-2.2, IPVS-9.3, CFG-6)."""

from dataclasses import replace

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
from kpsim.ruleset import Rule
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
    assert {
        chain.name for table in after.ruleset.in_order() for chain in table.ordered() if chain.name.startswith("KUBE")
    } == set()
    assert all(not chain.rules for table in after.ruleset.in_order() for chain in table.ordered())


def test_what_others_use_and_the_sets_of_ipv6_stay() -> None:  # IPVS-9.3
    six = node_port_rig(Family.IPV6).sync().held
    after = of_other_mode(Mode.NFTABLES, six)
    assert (len(after.ipsets), len(after.virtual_servers)) == (17, 0)

    held = web_rig().sync().held
    filter_table = held.ruleset.table("filter")
    forward = filter_table.chains["FORWARD"]
    firewall = filter_table.chains["KUBE-IPVS-FILTER"].rules
    own = replace(
        filter_table,
        chains=filter_table.chains.set(
            "FORWARD", type(forward)("FORWARD", (*forward.rules, firewall[1]), forward.base)
        ),
    )
    used = replace(held, ruleset=replace(held.ruleset, tables=held.ruleset.tables.set(own.key, own)))
    after = of_other_mode(Mode.NFTABLES, used)
    assert set(after.ipsets) == {"KUBE-CLUSTER-IP"}
    kept = [rule for chain in after.ruleset.table("filter").ordered() for rule in chain.rules]
    assert kept == [firewall[1]] and isinstance(kept[0], Rule)


def test_rules_of_another_program_that_lead_to_kube_proxys_chains_keep_them() -> None:
    held = web_rig().sync().held
    nat = held.ruleset.table("nat")
    prerouting = nat.chains["PREROUTING"]
    thrice = type(prerouting)("PREROUTING", prerouting.rules * 3, prerouting.base)
    own = replace(nat, chains=nat.chains.set("PREROUTING", thrice))
    after = of_other_mode(
        Mode.NFTABLES, replace(held, ruleset=replace(held.ruleset, tables=held.ruleset.tables.set(own.key, own)))
    )
    chains = after.ruleset.table("nat").chains
    assert chains["PREROUTING"].rules == prerouting.rules  # each mode's clean-up deletes one
    assert [name for name in chains if name.startswith("KUBE-")] == ["KUBE-SERVICES"]
    assert chains["KUBE-SERVICES"].rules == ()
