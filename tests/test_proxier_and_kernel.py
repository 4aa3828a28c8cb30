"""What a kernel was told is a value that the sync engine is handed and gives back (I-13, CP-12.1)."""

from dataclasses import replace
from typing import Any

from proxiers import (
    Rig,
    document,
    endpoint_slice,
    node,
    service,
)

from kpsim.addresses import Family
from kpsim.backends.table import make_backend
from kpsim.config import Mode
from kpsim.ipvs.connections import Counters
from kpsim.ipvs.servers import RealServer, VirtualServer, VirtualServerKey
from kpsim.maps import Map
from kpsim.programmed import Programmed
from kpsim.proxier import Proxier

SVC = "KUBE-SVC-67NZLRHBNDSAWJRO"


def web_rig(**config: Any) -> Rig:
    """One Service with one endpoint, synced."""
    rig = Rig(**config)
    rig.apply(service(), endpoint_slice())
    assert rig.sync().success
    return rig


def next_process(rig: Rig, held: Programmed | None) -> Rig:
    """The kube-proxy that follows on the machine, told what there is and not synced yet."""
    following = Rig(rig.settings)
    following.proxier = Proxier(rig.settings, make_backend(rig.settings), created_ns=rig.now_ns, held=held)
    following.proxier.services_synced()
    following.proxier.slices_synced()
    following.apply(*rig.cluster.objects.values())
    return following


def test_a_sync_leaves_the_value_that_it_was_handed_as_it_was() -> None:
    rig = web_rig()
    before = rig.proxier.held
    chains = set(before.ruleset.table("nat").chains)
    rig.apply(service("shop/other", cluster_ip="172.30.10.2"), endpoint_slice("shop/other"))
    assert rig.sync().held is rig.proxier.held
    assert set(before.ruleset.table("nat").chains) == chains
    assert rig.chains() > chains


def test_a_process_takes_over_what_its_predecessor_left() -> None:  # CP-12.1
    rig = web_rig()
    rig.delete(service())  # not synced any more
    following = next_process(rig, rig.proxier.held)
    assert following.proxier.held.ruleset == rig.proxier.held.ruleset
    result = following.sync()
    assert SVC not in following.chains()
    assert f"-X {SVC}\n" in document(result)
    assert all(command.endswith(" # exists") for command in result.transaction.commands)


def test_a_process_on_a_machine_that_was_off_finds_nothing() -> None:
    rig = web_rig()
    following = next_process(rig, None)
    assert following.chains() == {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING", "KUBE-PROXY-CANARY"}
    result = following.sync()
    assert result.transaction.commands[0] == "-t filter -N KUBE-EXTERNAL-SERVICES"  # new
    assert following.proxier.held == rig.proxier.held


def test_tables_that_are_gone_altogether_fail_a_partial_sync_and_are_rebuilt_by_the_next() -> None:  # K-9.3, I-13.6
    rig = web_rig()
    chains = rig.chains("nat")
    rig.proxier.held = Programmed.nothing(Family.IPV4)
    assert not rig.sync().success
    assert "KUBE-SERVICES" in rig.chains("filter")  # committed before nat was refused
    assert rig.sync().success
    assert rig.chains("nat") == chains - {"KUBE-PROXY-CANARY"}


def test_a_sync_that_does_not_run_tells_what_the_kernel_holds() -> None:
    rig = Rig(synced=False)
    assert rig.sync().held is rig.proxier.held


def test_a_result_carries_the_plans_of_what_changed() -> None:
    rig = web_rig()
    rig.apply(service("shop/other", cluster_ip="172.30.10.2"))
    result = rig.sync()
    assert [(str(key), len(plans)) for key, plans in result.plans.items()] == [("shop/other", 1)]
    rig.delete(service("shop/other", cluster_ip="172.30.10.2"))
    assert list(rig.sync().plans.values()) == [()]
    rig.apply(node("zone-a"))
    assert [str(key) for key in rig.sync().plans] == ["shop/web"]  # a full sync plans all


def test_what_only_ipvs_reads_of_a_machine_changes_nothing() -> None:
    rig = web_rig()
    before = rig.proxier.held
    rig.proxier.use_ipvs_connections(lambda key, server: Counters(7))
    rig.proxier.tick(rig.now_ns)
    assert rig.proxier.held is before
    assert rig.sync().held == before


def test_what_ip_vs_was_told_survives_iptables_mode() -> None:  # CFG-6
    key = VirtualServerKey(0xCB007109, 80, "tcp")
    of_others = replace(
        Programmed.nothing(Family.IPV4),
        virtual_servers=Map({key: VirtualServer("rr", 32, servers=(RealServer(0xCB00710A, 80),))}),
        local_addresses=Map({key.address: "dummy0"}),
    )
    rig = Rig(mode=Mode.IPTABLES)
    following = next_process(rig, of_others)
    following.apply(service(), endpoint_slice())
    held = following.sync().held
    for now in (held, following.proxier.backend.flush(held)):
        assert now.virtual_servers == of_others.virtual_servers
        assert now.local_addresses == of_others.local_addresses
