"""Syncs in nftables mode: what is sent when, what is remembered, and what follows a failure (NFT-8)."""

import pytest
from nftables_tables import (
    CLIENT_IP,
    LOCAL,
    REMOTE,
    documents,
    elements,
    nft_rig,
    restarted,
    rules,
    sent,
    table,
    unhashed,
    web_rig,
)
from proxiers import Rig, endpoint_slice, port, service, slice_port

from kpsim.backends.nftables.names import table_key
from kpsim.config import Host, HostInterface
from kpsim.objects import Service, ServiceCIDR, service_cidr_from_json
from kpsim.programmed import Programmed
from kpsim.proxier import SyncResult
from kpsim.ruleset import Chain
from kpsim.ruleset.operations import Operation, Verb, apply

WEB = "KHN6ECMT-shop/web/tcp/http"


def service_cidr(name: str, *cidrs: str) -> ServiceCIDR:
    return service_cidr_from_json({"metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}})


def failures(rig: Rig, what: str = "sync") -> int | None:
    return rig.metric(f"sync_proxy_rules_nftables_{what}_failures_total", ip_family="IPv4")


# --------------------------------------------------------------------------------------------------------------- partial syncs


def test_a_sync_without_changes_sends_an_empty_transaction() -> None:  # NFT-8.7, 13.1 a
    rig = web_rig()
    assert documents(rig.sync()) == [[]]


def test_a_new_endpoint_rewrites_the_chain_and_adds_one_element() -> None:  # NFT-13.1 b
    rig = web_rig()
    rig.apply(endpoint_slice(endpoints=[LOCAL, REMOTE, "10.180.0.11"], version=2))
    assert sent(rig.sync()) == [
        "add element hairpin-connections { 10.180.0.11 . 10.180.0.11 . tcp . 8080 }",
        f"add chain service-{WEB}",
        f"flush chain service-{WEB}",
        f"add rule service-{WEB} meta l4proto tcp dnat ip addr . port to numgen random mod 3 map "
        "{ 0 : 10.180.0.11 . 8080 , 1 : 10.180.0.3 . 8080 , 2 : 10.180.1.4 . 8080 }",
    ]


def test_the_last_endpoint_gone_leaves_an_empty_chain() -> None:  # NFT-13.1 c
    rig = web_rig()
    rig.delete(endpoint_slice())
    assert sent(rig.sync()) == [
        'add element no-endpoint-services { 172.30.10.1 . tcp . 80 comment "shop/web:http" : goto reject-chain }',
        f"flush chain service-{WEB}",
        "delete element service-ips { 172.30.10.1 . tcp . 80 }",
        "delete element hairpin-connections { 10.180.0.3 . 10.180.0.3 . tcp . 8080 }",
    ]
    assert f"add chain service-{WEB}" in table(rig)


def test_a_deleted_service_takes_chains_sets_and_elements_with_it() -> None:  # NFT-13.1 d
    rig = nft_rig()
    api = service("shop/api", [port(443, "https", node_port=30443)], cluster_ip="172.30.10.2", type="LoadBalancer",
                  externalIPs=["192.0.2.20"], ingress=["203.0.113.20"], loadBalancerSourceRanges=["198.51.100.0/24"],
                  externalTrafficPolicy="Local", **CLIENT_IP)  # fmt: skip
    rig.apply(api, endpoint_slice("shop/api", [LOCAL], [slice_port(8443, "https")]))
    rig.sync()
    rig.delete(api, endpoint_slice("shop/api"))
    assert unhashed(sent(rig.sync())) == [
        "flush chain endpoint-shop/api/tcp/https__10.180.0.3/8443",
        "flush chain external-shop/api/tcp/https",
        "flush chain firewall-shop/api/tcp/https",
        "flush chain local-shop/api/tcp/https",
        "flush chain service-shop/api/tcp/https",
        "delete set affinity-shop/api/tcp/https__10.180.0.3/8443",
        "delete element cluster-ips { 172.30.10.2 }",
        "delete element service-ips { 172.30.10.2 . tcp . 443 }",
        "delete element service-ips { 192.0.2.20 . tcp . 443 }",
        "delete element service-ips { 203.0.113.20 . tcp . 443 }",
        "delete element firewall-ips { 203.0.113.20 . tcp . 443 }",
        "delete element service-nodeports { tcp . 30443 }",
        "delete element hairpin-connections { 10.180.0.3 . 10.180.0.3 . tcp . 8443 }",
    ]


def test_all_ports_of_a_changed_service_are_rewritten() -> None:  # NFT-8.4: the skip is per Service
    rig = nft_rig()
    both = [port(80, "http"), port(443, "https")]
    rig.apply(service(ports=both), endpoint_slice(ports=[slice_port(8080), slice_port(8443, "https")]))
    rig.apply(service("shop/other", cluster_ip="172.30.10.9"), endpoint_slice("shop/other", ["10.180.0.9"]))
    rig.sync()
    rig.apply(service(ports=[both[0], port(444, "https")]))
    written = [line for line in sent(rig.sync()) if line.startswith("flush chain")]
    assert [line.split("/")[-1] for line in written] == ["http", "https"]


def test_an_unchanged_service_is_not_repaired_by_a_partial_sync() -> None:  # NFT-8.7
    rig = web_rig()
    rig.apply(service("shop/api", cluster_ip="172.30.10.2"))
    assert sent(rig.sync()) == [
        "add element cluster-ips { 172.30.10.2 }",
        'add element no-endpoint-services { 172.30.10.2 . tcp . 80 comment "shop/api:http" : goto reject-chain }',
    ]


def test_an_element_changes_its_value_by_delete_and_add() -> None:  # NFT-8.6
    rig = nft_rig()
    rig.apply(service(internalTrafficPolicy="Local"), endpoint_slice(endpoints=[REMOTE]))
    rig.sync()
    assert elements(rig, "no-endpoint-services") == ['172.30.10.1 . tcp . 80 comment "shop/web:http" : drop']
    rig.delete(endpoint_slice())
    assert sent(rig.sync()) == [
        "delete element no-endpoint-services { 172.30.10.1 . tcp . 80 }",
        'add element no-endpoint-services { 172.30.10.1 . tcp . 80 comment "shop/web:http" : goto reject-chain }',
    ]


def test_a_comment_goes_stale_because_it_is_not_compared() -> None:  # NFT-8.6
    rig = nft_rig()
    rig.apply(service())
    rig.sync()
    rig.apply(service(ports=[port(name="renamed")]))
    assert sent(rig.sync()) == []
    rig.proxier.force_full_sync()
    assert not [line for line in sent(rig.sync()) if "element no-endpoint-services" in line]
    assert elements(rig, "no-endpoint-services") == [
        '172.30.10.1 . tcp . 80 comment "shop/web:http" : goto reject-chain'
    ]


def test_a_node_port_moves_without_its_chain() -> None:
    rig = nft_rig()
    rig.apply(service(ports=[port(node_port=30001)], type="NodePort"), endpoint_slice())
    rig.sync()
    rig.apply(service(ports=[port(node_port=30002)], type="NodePort"))
    lines = sent(rig.sync())
    assert [line for line in lines if "element" in line] == [
        f"add element service-nodeports {{ tcp . 30002 : goto external-{WEB} }}",
        "delete element service-nodeports { tcp . 30001 }",
    ]


# --------------------------------------------------------------------------------------- two Services that want one element

SHARED = "203.0.113.1"
ONE = service("shop/one", [port()], cluster_ip="172.30.10.2", externalIPs=[SHARED])
TWO = service("shop/two", [port()], cluster_ip="172.30.10.3", externalIPs=[SHARED])


def contested_rig() -> Rig:
    rig = nft_rig()
    rig.apply(ONE, TWO, endpoint_slice("shop/one"), endpoint_slice("shop/two", ["10.180.0.4"]))
    rig.sync()
    return rig


def flaps(result: SyncResult) -> list[str]:
    return [line.split("/")[1] if "add" in line else "delete" for line in sent(result) if SHARED in line]


def test_two_services_take_an_element_from_each_other_in_every_sync() -> None:  # NFT-6.6
    rig = contested_rig()
    for _ in range(2):
        assert unhashed(sent(rig.sync())) == [
            f"delete element service-ips {{ {SHARED} . tcp . 80 }}",
            f"add element service-ips {{ {SHARED} . tcp . 80 : goto external-shop/one/tcp/http }}",
            f"delete element service-ips {{ {SHARED} . tcp . 80 }}",
            f"add element service-ips {{ {SHARED} . tcp . 80 : goto external-shop/two/tcp/http }}",
        ]


@pytest.mark.parametrize(("gone", "left"), [(ONE, []), (TWO, ["delete", "one"])])
def test_the_one_that_is_left_has_the_element(gone: Service, left: list[str]) -> None:
    rig = contested_rig()
    rig.apply(service(f"shop/{gone.metadata.name}", [port()], cluster_ip=gone.cluster_ip))
    assert flaps(rig.sync()) == left  # the second one had it already
    assert flaps(rig.sync()) == []
    kept = "one" if gone is TWO else "two"
    (element,) = [each for each in elements(rig, "service-ips") if SHARED in each]
    assert f"shop/{kept}/" in element


def test_two_services_that_refuse_alike_do_not_flap() -> None:
    rig = nft_rig()
    rig.apply(ONE, TWO)
    assert flaps(rig.sync()) == ['one:http" : goto reject-chain }']
    assert sent(rig.sync()) == []
    rig.delete(ONE)
    assert flaps(rig.sync()) == []
    rig.delete(TWO)
    assert flaps(rig.sync()) == ["delete"]


def test_an_element_that_a_service_wants_twice_goes_with_the_service() -> None:
    rig = nft_rig()
    twice = service(externalIPs=[SHARED], ingress=[SHARED], type="LoadBalancer", ports=[port(), port(81, "more")])
    rig.apply(twice, endpoint_slice(ports=[slice_port(), slice_port(8081, "more")]))
    assert rig.sync().success
    rig.delete(twice)
    assert [line for line in sent(rig.sync()) if SHARED in line] == [
        f"delete element service-ips {{ {SHARED} . tcp . 80 }}",
        f"delete element service-ips {{ {SHARED} . tcp . 81 }}",
    ]


# ----------------------------------------------------------------------------------------------------------------- stale chains


def test_a_stale_chain_is_deleted_by_its_own_transaction_more_than_a_second_later() -> None:  # NFT-8.8
    rig = web_rig()
    rig.delete(endpoint_slice())
    assert len(documents(rig.sync())) == 1
    assert documents(rig.sync(1)) == [[f"flush chain service-{WEB}"]]  # emptied again: its second begins anew
    assert documents(rig.sync(1.000000001)) == [[f"delete chain service-{WEB}"], []]
    assert f"add chain service-{WEB}" not in table(rig)
    assert documents(rig.sync(2)) == [[]]


def test_a_chain_that_comes_back_is_not_deleted() -> None:
    rig = web_rig()
    rig.delete(endpoint_slice())
    rig.sync()
    rig.apply(endpoint_slice(version=2))
    assert [line for line in sent(rig.sync(0.5)) if "chain" in line] == [
        f"add chain service-{WEB}",
        f"flush chain service-{WEB}",
    ]
    assert documents(rig.sync(5)) == [[]]


def test_a_stale_chain_that_is_gone_when_its_service_returns_is_still_due() -> (
    None
):  # NFT-8.4: only existing ones are forgiven
    rig = web_rig()
    rig.delete(endpoint_slice())
    rig.sync()
    held = rig.proxier.held
    by_hand = Operation(Verb.DELETE, table_key(held.family), Chain(f"service-{WEB}"))
    rig.proxier.held = Programmed.of(apply(held.ruleset, [by_hand]))
    assert documents(rig.sync(0.2)) == documents(rig.sync(0.2)) == [[]]
    rig.apply(endpoint_slice(version=2))
    assert rig.sync(0.5).success
    result = rig.sync(2)
    assert documents(result)[0] == [f"delete chain service-{WEB}"]
    assert (result.full, result.success, failures(rig, "cleanup")) == (True, True, 1)
    assert documents(rig.sync(2)) == [[]]


def test_a_failed_sync_forgets_what_is_stale_and_the_next_one_finds_it() -> None:  # NFT-8.4
    rig = web_rig()
    rig.delete(endpoint_slice())
    rig.sync()
    rig.apply(service(ports=[port(81)]))
    assert not rig.sync(0.5, refuse=True).success
    result = rig.sync(30)
    assert len(documents(result)) == 1
    assert f"flush chain service-{WEB}" in sent(result)
    assert documents(rig.sync(2))[0] == [f"delete chain service-{WEB}"]


def test_affinity_sets_are_deleted_at_once_and_in_order_of_name() -> None:  # NFT-8.4
    rig = nft_rig()
    rig.apply(service(**CLIENT_IP), endpoint_slice(endpoints=[LOCAL, "10.180.0.4", "10.180.0.5"]))
    rig.sync()
    rig.apply(endpoint_slice(endpoints=["10.180.0.4"], version=2))
    deleted = [line for line in sent(rig.sync()) if line.startswith("delete set")]
    assert len(deleted) == 2 and deleted == sorted(deleted)
    assert not [line for line in sent(rig.sync()) if "set" in line]


def test_a_chain_that_another_program_added_is_found_when_the_table_has_changed() -> None:
    rig, other = web_rig(), web_rig()
    other.apply(service("shop/gone", cluster_ip="172.30.10.7", **CLIENT_IP), endpoint_slice("shop/gone"))
    other.sync()
    rig.proxier.held = other.proxier.held
    lines = sent(rig.sync())
    assert [line.split(" ")[:2] for line in lines] == [["flush", "chain"], ["flush", "chain"], ["delete", "set"]]


# --------------------------------------------------------------------------------------------------------------------- failures


def test_a_refused_transaction_changes_nothing_and_the_next_sync_is_full() -> None:  # NFT-8.10
    rig = web_rig()
    before = table(rig)
    rig.apply(service(ports=[port(81)]))
    result = rig.sync(refuse=True)
    assert (result.success, result.full, failures(rig)) == (False, False, 1)
    assert result.transaction.error == "refused"
    assert "add element service-ips { 172.30.10.1 . tcp . 81" in "\n".join(sent(result))
    assert table(rig) == before
    result = rig.sync(30)
    assert result.full and result.success
    assert [line for line in sent(result) if "element service-ips" in line] == [
        f"add element service-ips {{ 172.30.10.1 . tcp . 81 : goto service-{WEB} }}",
        "delete element service-ips { 172.30.10.1 . tcp . 80 }",
    ]
    assert failures(rig) == 1


def test_a_deleted_table_makes_the_next_sync_with_content_fail() -> None:  # NFT-8.7
    rig = web_rig()
    rig.flush()
    assert rig.sync().success  # nothing to send, nothing noticed
    rig.apply(service(ports=[port(81)]))
    result = rig.sync()
    assert not result.success
    assert result.transaction.error == f"add chain ip kube-proxy service-{WEB}: No such file or directory"
    result = rig.sync(30)
    assert result.full and result.success
    assert elements(rig, "service-ips") == [f"172.30.10.1 . tcp . 81 : goto service-{WEB}"]
    assert "delete chain" not in "\n".join(sent(result))  # the base chains are made anew only once


def test_a_table_that_is_gone_when_stale_chains_are_due_is_rebuilt_in_the_same_sync() -> None:  # NFT-8.4
    rig = web_rig()
    rig.delete(endpoint_slice())
    rig.sync()
    rig.flush()
    result = rig.sync(2)
    assert (result.full, result.success) == (True, True)
    assert (failures(rig, "cleanup"), failures(rig)) == (1, None)
    assert result.transaction.error == ""
    assert result.transaction.became_full
    assert not web_rig().sync(4000).transaction.became_full  # it was to be full
    assert rig.metric("sync_full_proxy_rules_duration_seconds_count", ip_family="IPv4") == 2
    assert documents(result)[0] == [f"delete chain service-{WEB}"]
    assert 'add table { comment "rules for kube-proxy" ; }' in documents(result)[1]
    assert elements(rig, "cluster-ips") == ["172.30.10.1"]
    assert documents(rig.sync(3599.9)) == [[]]  # it counts as the last full sync


def test_a_table_that_is_not_there_can_be_flushed() -> None:
    rig = nft_rig()
    rig.flush()
    assert not rig.proxier.held.ruleset.tables
    assert rig.sync().success


def test_both_transactions_of_one_sync_may_be_refused() -> None:
    rig = web_rig()
    rig.delete(endpoint_slice())
    rig.sync()
    result = rig.sync(2, refuse=True)
    assert (result.full, result.success, len(documents(result))) == (True, False, 2)
    assert (failures(rig, "cleanup"), failures(rig)) == (1, 1)


def test_the_first_full_sync_makes_base_chains_anew_also_if_it_fails() -> None:  # NFT-8.5
    rig = nft_rig()
    first, second = rig.sync(refuse=True), rig.sync(30)
    assert sent(first)[1:3] == ["add chain filter-prerouting-pre-dnat", "delete chain filter-prerouting-pre-dnat"]
    assert sent(second)[0] == sent(first)[0]
    assert sent(second)[1:] == sent(first)[17:]


# ------------------------------------------------------------------------------------------------------------------- full syncs


def test_a_full_sync_is_due_more_than_an_hour_after_the_last() -> None:  # NFT-1.7
    rig = nft_rig(host=Host(node_ips=("192.168.0.2",), large_cluster_endpoints=0))
    rig.apply(service(), endpoint_slice())
    rig.sync()
    assert not rig.sync(3600).full
    assert rig.sync(0.000000001).full


def test_a_full_sync_reads_elements_back_and_sends_differences_only() -> None:  # NFT-8.5
    rig, other = web_rig(), web_rig()
    other.apply(service("shop/api", cluster_ip="172.30.10.2"))
    other.sync()
    rig.proxier.held = other.proxier.held  # another program added elements
    assert sent(rig.sync()) == []
    rig.proxier.force_full_sync()
    assert [line for line in sent(rig.sync()) if "element" in line] == [
        "add element nodeport-ips { 192.168.0.2 }",
        "delete element cluster-ips { 172.30.10.2 }",
        "delete element no-endpoint-services { 172.30.10.2 . tcp . 80 }",
    ]


def test_a_restart_finds_the_table_and_changes_only_what_differs() -> None:  # NFT-8.5
    rig = web_rig()
    rig.apply(service("shop/gone", cluster_ip="172.30.10.2"), endpoint_slice("shop/gone", ["10.180.0.9"]))
    rig.sync()
    rig.cluster = rig.cluster.remove(service("shop/gone").key)[1]
    rig.cluster = rig.cluster.remove(endpoint_slice("shop/gone").key)[1]
    started = restarted(rig)
    assert table(started) == table(rig)
    result = started.sync()
    assert [line for line in unhashed(sent(result)) if "element" in line or "shop/gone" in line] == [
        "add element nodeport-ips { 192.168.0.2 }",
        "flush chain service-shop/gone/tcp/http",
        "delete element cluster-ips { 172.30.10.2 }",
        "delete element service-ips { 172.30.10.2 . tcp . 80 }",
        "delete element hairpin-connections { 10.180.0.9 . 10.180.0.9 . tcp . 8080 }",
    ]
    assert unhashed(documents(started.sync(2))[0]) == ["delete chain service-shop/gone/tcp/http"]
    assert table(started) == table(web_rig())


def test_affinity_sets_outlive_full_syncs_and_restarts() -> None:  # NFT-6.11
    rig = nft_rig()
    rig.apply(service(**CLIENT_IP), endpoint_slice())
    rig.sync()

    def generation(of: Rig) -> int:
        sets = of.proxier.held.ruleset.table("kube-proxy").sets
        return next(each.generation for name, each in sets.items() if name.startswith("affinity-"))

    before = generation(rig)
    rig.proxier.force_full_sync()
    rig.sync()
    started = restarted(rig)
    started.sync()
    assert before == generation(rig) == generation(started)


def test_another_timeout_is_taken_over() -> None:  # NFT-6.11
    rig = nft_rig()
    rig.apply(service(**CLIENT_IP), endpoint_slice())
    rig.sync()
    longer = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 120}}}
    rig.apply(service(**longer))
    rig.sync()
    assert [line[-46:] for line in table(rig) if "affinity" in line and "add set" in line] == [
        "type ipv4_addr ; flags dynamic,timeout ; timeout 120s ; }"[-46:]
    ]


def test_what_was_compiled_for_a_chain_outlives_a_full_sync() -> None:
    rig = web_rig()
    before = rig.proxier.held.ruleset.chain("kube-proxy", f"service-{WEB}")
    rig.proxier.force_full_sync()
    rig.sync()
    assert rig.proxier.held.ruleset.chain("kube-proxy", f"service-{WEB}") is before


# -------------------------------------------------------------------------------------------------- what a full sync looks at


def test_service_cidrs_are_written_by_the_next_full_sync_only() -> None:  # NFT-1.10, 5.9
    rig = web_rig()
    assert not rig.apply(service_cidr("extra", "172.29.0.0/16", "fd00:172:29::/112"))
    assert documents(rig.sync()) == [[]]
    rig.proxier.force_full_sync()
    rig.sync()
    drop = 'ip daddr {{ {} }} drop comment "Drop traffic to unallocated ClusterIPs"'
    assert rules(rig, "cluster-ips-check")[1] == drop.format("172.29.0.0/16,172.30.0.0/16")
    rig.apply(service_cidr("extra", "172.28.0.0/16"))
    rig.proxier.force_full_sync()
    rig.sync()
    assert rules(rig, "cluster-ips-check")[1] == drop.format("172.28.0.0/16,172.30.0.0/16")
    rig.delete(service_cidr("extra"))
    rig.proxier.force_full_sync()
    rig.sync()
    assert rules(rig, "cluster-ips-check")[1] == drop.format("172.30.0.0/16")


def test_without_service_cidrs_nothing_is_dropped() -> None:  # NFT-5.9
    rig = web_rig(host=Host(node_ips=("192.168.0.2",)))
    assert rules(rig, "cluster-ips-check") == [
        'ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"'
    ]


def test_node_port_addresses_are_read_at_full_syncs() -> None:  # NFT-5.10
    rig = web_rig(node_port_addresses=("192.168.0.0/16", "127.0.0.0/8"))
    assert elements(rig, "nodeport-ips") == ["192.168.0.2"]
    rig.proxier.use_interfaces(
        [HostInterface("e", ("192.168.0.2", "192.168.0.10", "10.0.0.1")), HostInterface("lo", ("127.0.0.1/8",))]
    )
    rig.sync()
    assert elements(rig, "nodeport-ips") == ["192.168.0.2"]
    rig.proxier.force_full_sync()
    lines = sent(rig.sync())
    at = lines.index("flush set nodeport-ips")
    assert lines[at + 1 : at + 3] == [
        "add element nodeport-ips { 192.168.0.10 }",
        "add element nodeport-ips { 192.168.0.2 }",
    ]
    assert elements(rig, "nodeport-ips") == ["192.168.0.10", "192.168.0.2"]


def test_if_all_addresses_take_node_ports_there_is_no_set_of_them() -> None:  # NFT-4, 8.5
    rig = web_rig(node_port_addresses=("10.0.0.0/8", "0.0.0.0/0"))
    assert "add set nodeport-ips" not in "\n".join(table(rig))
    assert rules(rig, "services")[2] == (
        "fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports"
    )
    assert rules(rig, "nodeport-endpoints-check") == [
        "ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @no-endpoint-nodeports"
    ]


# --------------------------------------------------------------------------------------------------------------- metrics, counts


def test_refusals_are_counted_by_port() -> None:  # NFT-8.12
    rig = nft_rig()
    ports = [port(80, "http", node_port=30080), port(443, "https", node_port=30443)]
    rig.apply(
        service(ports=ports, type="NodePort", internalTrafficPolicy="Local", externalTrafficPolicy="Local"),
        endpoint_slice(endpoints=[REMOTE], ports=[slice_port(8080), slice_port(8443, "https")]),
    )
    assert rig.sync().transaction.no_local_endpoints == (2, 2)
    rig.apply(service(ports=ports, type="NodePort", internalTrafficPolicy="Local"))
    assert rig.sync().transaction.no_local_endpoints == (2, 0)


def test_rules_are_counted() -> None:
    rig = web_rig()

    def total() -> int:
        return sum(line.startswith("add rule") for line in table(rig))

    rig.apply(endpoint_slice(version=2))
    (count,) = rig.sync().transaction.rule_counts
    assert (count.table, count.total, count.last) == ("kube-proxy", total(), 1)
    rig.delete(service())
    (count,) = rig.sync().transaction.rule_counts
    assert (count.total, count.last) == (total(), 0)
