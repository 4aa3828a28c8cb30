"""The sync engine: start gate, full and partial syncs, failures, large clusters, what follows a success (I-12 to
I-15, CP-7, CP-10).
"""

from typing import Any

import pytest
from proxiers import (
    NODE,
    START_NS,
    Rig,
    document,
    endpoint,
    endpoint_slice,
    make_settings,
    node,
    port,
    service,
    slice_port,
)

from kpsim.addresses import Family
from kpsim.backends.table import make_backend
from kpsim.comparison.documents import document_differences
from kpsim.config import Host, Mode
from kpsim.errors import InputError
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.objects import EndpointSlice, Service, ServiceCIDR, service_cidr_from_json
from kpsim.units import SECOND_NS, format_rfc3339

SVC = "KUBE-SVC-67NZLRHBNDSAWJRO"
HOUR_S = 3600
FULL = {"ip_family": "IPv4"}

Json = dict[str, Any]


def web_rig(**config: Any) -> Rig:
    """One Service with one endpoint, synced."""
    rig = Rig(**config)
    rig.apply(service(), endpoint_slice())
    assert rig.sync().success
    return rig


# --------------------------------------------------------------------------------------------------- requests, start gate


def test_nothing_is_written_before_both_lists_are_there() -> None:  # O-1.8
    rig = Rig(synced=False)
    assert not rig.apply(service(), endpoint_slice())  # recorded, but no request
    for signal in (rig.proxier.slices_synced, rig.proxier.services_synced):
        assert not rig.sync().ran
        signal()
    assert rig.metric("sync_proxy_rules_duration_seconds_count", **FULL) is None  # closed gate: no metrics
    assert rig.sync().success
    assert SVC in rig.chains()


def test_a_topology_change_requests_a_sync_even_before_the_start() -> None:  # CP-7.2
    assert Rig(synced=False).apply(node("zone-a"))
    assert not Rig(synced=False).apply(node())


@pytest.mark.parametrize(
    ("objects", "requested"),
    [
        ([service("shop/new")], True),
        ([service(labels={"app": "web"})], False),  # O-7.2
        ([endpoint_slice(version=2)], True),  # O-8.2
        ([endpoint_slice()], False),
        ([endpoint_slice(family="IPv6", name="web-6")], False),  # O-6.1
        ([endpoint_slice(labels={}, name="stray")], False),
        ([node("zone-a")], True),
        ([node("zone-a"), node("zone-a", podCIDRs=["10.180.0.0/24"])], False),  # T-5.1: only the zone counts
        ([service("shop/new"), service(labels={"app": "web"})], True),  # O-7.3: any pending Service
        ([service("shop/other", cluster_ip="None")], False),  # O-1.1
        ([service("shop/other", labels={"service.kubernetes.io/service-proxy-name": ""})], False),
        ([endpoint_slice("shop/other", labels={"service.kubernetes.io/headless": ""})], False),  # O-1.2
    ],
)
def test_what_requests_a_sync(objects: list[Service | EndpointSlice], requested: bool) -> None:
    assert web_rig().apply(*objects) is requested


def test_service_cidrs_are_not_for_iptables() -> None:  # O-1.4
    cidr: ServiceCIDR = service_cidr_from_json({"metadata": {"name": "extra"}, "spec": {"cidrs": ["172.29.0.0/16"]}})
    assert not web_rig().apply(cidr)


def test_a_label_that_removes_a_service_from_the_selection_deletes_it() -> None:
    rig = web_rig()
    assert rig.apply(service(labels={"service.kubernetes.io/service-proxy-name": "other"}))
    rig.sync()
    assert SVC not in rig.chains()
    assert rig.apply(service())
    rig.sync()
    assert SVC in rig.chains()


def test_a_scheduler_that_the_kernel_does_not_have_keeps_kube_proxy_from_starting() -> None:  # IPVS-1.4
    with pytest.raises(
        InputError,
        match=r"^ipvs\.scheduler: the kernel has no scheduler 'lru', so kube-proxy does not start; it has rr, wrr, lc, ",
    ):
        make_backend(make_settings(mode=Mode.IPVS, ipvs_scheduler="lru"))


# --------------------------------------------------------------------------------------------------- full or partial


def test_the_first_sync_is_full_and_the_next_partial() -> None:  # I-13.2
    rig = Rig()
    assert rig.sync().full
    assert not rig.sync().full


@pytest.mark.parametrize(("after_s", "full"), [(HOUR_S - 1, False), (HOUR_S, False), (HOUR_S + 1, True)])
def test_a_full_sync_more_than_an_hour_after_the_last(after_s: float, full: bool) -> None:
    rig = Rig()
    rig.sync()
    rig.sync(1800)
    assert rig.sync(after_s - 1800).full is full


@pytest.mark.parametrize("before,after", [(None, "zone-a"), ("zone-a", "zone-b"), ("zone-a", None), (None, "")])
def test_a_topology_change_makes_the_next_sync_full(before: str | None, after: str | None) -> None:  # T-5.2
    rig = Rig()
    rig.apply(node(before))
    rig.sync()
    rig.apply(node(after))
    assert rig.sync().full


def test_a_deleted_node_keeps_its_zone() -> None:  # T-5.3
    rig = Rig()
    rig.apply(node("zone-a"))
    rig.sync()
    assert not rig.delete(node("zone-a"))
    assert rig.proxier.zone == "zone-a"
    assert not rig.sync().full


def test_the_canary_forces_a_full_sync() -> None:  # I-14
    rig = web_rig()
    rig.proxier.force_full_sync()
    assert rig.sync().full
    assert not rig.sync().full


def test_canaries_are_in_all_tables_and_in_no_document() -> None:
    rig = Rig()
    assert all("KUBE-PROXY-CANARY" in rig.chains(table) for table in ("mangle", "nat", "filter"))
    assert "CANARY" not in document(rig.sync())


def test_a_partial_sync_without_changes_writes_the_shared_chains() -> None:  # I-13.3
    rig = web_rig()
    text = document(rig.sync())
    assert f"-j {SVC}\n" in text
    assert f"-A {SVC}" not in text
    assert f":{SVC}" not in text
    assert "-A KUBE-MARK-MASQ" in text


def test_a_partial_sync_writes_every_port_of_a_changed_service() -> None:
    rig = Rig()
    both = [port(80, "http"), port(443, "https")]
    rig.apply(service(ports=both), service("shop/api", cluster_ip="172.30.10.2"))
    rig.apply(endpoint_slice(ports=[slice_port(8080), slice_port(8443, "https")]), endpoint_slice("shop/api"))
    rig.sync()
    rig.apply(endpoint_slice(ports=[slice_port(8080), slice_port(8443, "https")], version=2))
    text = document(rig.sync())
    assert text.count("\n:KUBE-SVC-") == 2
    assert "shop/api:http ->" not in text


# --------------------------------------------------------------------------------------------------- failures


def test_a_failed_sync_changes_nothing_and_the_next_is_full() -> None:  # I-13.6
    rig = web_rig()
    before = rig.tables_text()
    rig.apply(endpoint_slice(endpoints=["10.180.0.4"], version=2))
    failed = rig.sync(refuse=True)
    assert (failed.ran, failed.full, failed.success) == (True, False, False)
    assert rig.tables_text() == before
    repaired = rig.sync()
    assert (repaired.full, repaired.success) == (True, True)
    assert "10.180.0.4" in rig.tables_text()
    assert "10.180.0.3" not in rig.tables_text()
    assert not rig.sync().full


def test_jumps_stay_when_the_first_document_is_refused() -> None:  # the I-3 steps came before
    rig = Rig()
    rig.sync(refuse=True)
    assert len(rig.rules("filter", "INPUT")) == 4
    assert rig.rules("filter", "KUBE-FORWARD") == []


@pytest.mark.parametrize("partial", [True, False])
def test_failure_counters(partial: bool) -> None:  # I-15
    rig = web_rig()
    if not partial:
        rig.proxier.force_full_sync()
    rig.sync(refuse=True)
    assert rig.metric("sync_proxy_rules_iptables_restore_failures_total", **FULL) == 1
    assert rig.metric("sync_proxy_rules_iptables_partial_restore_failures_total", **FULL) == (1 if partial else None)


def test_a_failed_sync_sets_rule_counts_but_nothing_that_follows_success() -> None:
    rig = Rig()
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32100}
    rig.apply(service(**local), triggered(1))
    rig.sync(refuse=True)
    assert rig.metric("sync_proxy_rules_iptables_total", table="nat", **FULL) == 10
    assert rig.metric("sync_proxy_rules_no_local_endpoints_total", traffic_policy="external", **FULL) is None
    assert rig.metric("network_programming_duration_seconds_count", **FULL) is None
    assert rig.proxier.service_health.servers == ()
    rig.sync()
    assert rig.metric("network_programming_duration_seconds_count", **FULL) is None  # lost with the failure
    assert len(rig.proxier.service_health.servers) == 1


def test_flushed_tables_let_a_partial_sync_fail_after_its_filter_part() -> None:  # K-9.3
    rig = web_rig()
    rig.apply(service("shop/empty", cluster_ip="172.30.10.9"))
    rig.flush()
    result = rig.sync()
    assert (result.full, result.success) == (False, False)
    assert rig.chains("nat") == {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}
    assert len(rig.rules("filter", "KUBE-SERVICES")) == 1  # committed
    assert rig.rules("filter", "INPUT") == []  # no jump leads there
    assert rig.metric("sync_proxy_rules_iptables_partial_restore_failures_total", **FULL) == 1
    repaired = rig.sync()
    assert (repaired.full, repaired.success) == (True, True)
    assert "-t filter -N KUBE-SERVICES # exists" in repaired.transaction.commands
    assert "-t nat -N KUBE-SERVICES" in repaired.transaction.commands


def test_flushed_tables_are_not_noticed_where_no_jump_is_missing() -> None:
    rig = Rig()
    rig.apply(service())
    rig.sync()
    rig.flush()
    result = rig.sync()
    assert (result.full, result.success) == (False, True)
    assert rig.rules("nat", "PREROUTING") == []  # partial syncs do not put the jumps back (I-13.3)


# --------------------------------------------------------------------------------------------------- stale chains, large clusters


def many(count: int, version: int = 1) -> EndpointSlice:
    return endpoint_slice(endpoints=[f"10.180.{n // 250}.{n % 250 + 1}" for n in range(count)], version=version)


def test_stale_chains_go_with_their_last_reference() -> None:  # I-13.5
    rig = web_rig()
    rig.apply(endpoint_slice(endpoints=["10.180.0.4"], version=2))
    text = document(rig.sync())
    gone = "KUBE-SEP-JQD5QAB7X3L27L5I"  # of 10.180.0.3 (I-2.2)
    assert f":{gone} - [0:0]\n" in text
    assert f"-X {gone}\n" in text
    assert gone not in rig.chains()


@pytest.mark.parametrize(("count", "large"), [(1000, False), (1001, True)])
def test_threshold_of_large_clusters(count: int, large: bool) -> None:  # I-12.3
    rig = Rig()
    rig.apply(service(), many(count))
    text = document(rig.sync())
    assert rig.periodic_full_sync is not large
    assert (" -> " in text) is not large
    assert ("--comment shop/web:http -s " in text) is not large
    assert '"shop/web:http cluster IP"' in text  # all other comments stay


def test_the_threshold_counts_every_endpoint_of_every_port() -> None:
    rig = Rig(make_settings(host=Host(node_ips=("192.168.0.2",), large_cluster_endpoints=3)))
    two = [endpoint("10.180.0.1", None, "unready"), endpoint("10.180.0.2", "node-2", "terminating")]
    rig.apply(service(ports=[port(80), port(443, "https")]))
    rig.apply(endpoint_slice(endpoints=two, ports=[slice_port(), slice_port(8443, "https"), slice_port(1, "nobody")]))
    rig.sync()
    assert not rig.periodic_full_sync  # 4 of known ports, 6 in all
    rig.apply(service(ports=[port(80)]))
    rig.sync()
    assert rig.periodic_full_sync


def large_rig() -> Rig:
    host = Host(node_ips=("192.168.0.2",), large_cluster_endpoints=2)
    rig = Rig(make_settings(host=host))
    rig.apply(
        service(), many(3), service("shop/api", cluster_ip="172.30.10.2"), endpoint_slice("shop/api", ["10.180.9.9"])
    )
    rig.sync()
    return rig


def test_large_clusters_collect_stale_chains_once_per_sync_period() -> None:  # I-12.3 b
    rig = large_rig()
    rig.apply(many(4, version=2))
    rig.sync(31)
    rig.apply(many(3, version=3))
    assert "-X" not in document(rig.sync(30))  # more than syncPeriod since the last collection, not as long
    assert "-X" in document(rig.sync(1))


def test_large_clusters_have_no_hourly_full_sync() -> None:  # I-12.3 c: by the mode of the previous sync
    rig = large_rig()
    rig.apply(many(1, version=2))
    assert not rig.sync(HOUR_S + 1).full  # the previous one was large, this one is not
    assert rig.sync(1).full


def test_crossing_the_threshold_leaves_old_chains_as_they_are() -> None:
    rig = large_rig()
    rig.apply(many(1, version=2))  # 2 are left in all: not large any more
    assert not rig.sync().full
    assert any(" -> " in rule for rule in rig.rules("nat", SVC))
    other = next(name for name in rig.chains() if name.startswith("KUBE-SVC-") and name != SVC)
    assert not any(" -> " in rule for rule in rig.rules("nat", other))
    rig.proxier.force_full_sync()
    rig.sync()
    assert any(" -> " in rule for rule in rig.rules("nat", other))


# --------------------------------------------------------------------------------------------------- metrics


def triggered(after_s: float, **fields: Any) -> EndpointSlice:
    at = format_rfc3339(START_NS + round(after_s * SECOND_NS))
    return endpoint_slice(annotations={"endpoints.kubernetes.io/last-change-trigger-time": at}, **fields)


def test_metrics_of_a_start() -> None:
    assert dict(Rig().proxier.metrics.snapshot()) == {
        f"kubeproxy_sync_proxy_rules_{what}_changes_{kind}": 0
        for what in ("endpoint", "service")
        for kind in ("pending", "total")
    }


def test_metrics_of_syncs() -> None:  # I-15
    rig = web_rig()
    rig.sync()
    assert rig.metric("sync_proxy_rules_duration_seconds_count", **FULL) == 2
    assert rig.metric("sync_full_proxy_rules_duration_seconds_count", **FULL) == 1
    assert rig.metric("sync_partial_proxy_rules_duration_seconds_count", **FULL) == 1
    assert rig.metric("sync_proxy_rules_iptables_total", table="filter", **FULL) == 4
    assert rig.metric("sync_proxy_rules_iptables_total", table="nat", **FULL) == 10  # 5, and 2 + 3 (I-7.7)
    assert rig.metric("sync_proxy_rules_iptables_last", table="nat", **FULL) == 6  # 4 in skipped chains
    for policy in ("internal", "external"):
        assert rig.metric("sync_proxy_rules_no_local_endpoints_total", traffic_policy=policy, **FULL) == 0
    assert rig.metric("sync_proxy_rules_iptables_restore_failures_total", **FULL) is None


def test_change_metrics() -> None:  # O-9
    rig = Rig()
    rig.apply(service(), service(labels={"a": "b"}))  # changes or not
    assert rig.metric("sync_proxy_rules_service_changes_total") == 2
    assert rig.metric("sync_proxy_rules_service_changes_pending") == 1
    rig.apply(
        endpoint_slice(), endpoint_slice(version=2), endpoint_slice(version=2), endpoint_slice(family="IPv6", name="6")
    )
    assert rig.metric("sync_proxy_rules_endpoint_changes_total") == 3  # what is not the family's is not counted
    assert rig.metric("sync_proxy_rules_endpoint_changes_pending") == 2  # several per slice
    rig.sync(refuse=True)
    assert rig.metric("sync_proxy_rules_service_changes_pending") == 0  # consumed even if the sync fails
    assert rig.metric("sync_proxy_rules_endpoint_changes_pending") == 0
    rig.apply(service("shop/api"))
    rig.delete(service("shop/api"))
    assert rig.metric("sync_proxy_rules_service_changes_pending") == 0  # they cancelled out


def test_one_latency_sample_per_change() -> None:  # O-8.6
    rig = Rig()
    rig.apply(service(), triggered(1), triggered(2, version=2))
    result = rig.sync(5)
    assert [rig.now_ns - at for _, at in result.trigger_times_ns] == [4 * SECOND_NS, 3 * SECOND_NS]
    assert rig.metric("network_programming_duration_seconds_count", **FULL) == 2
    assert rig.sync().trigger_times_ns == ()


@pytest.mark.parametrize(
    ("spec", "where", "internal", "external"),
    [
        ({"internalTrafficPolicy": "Local"}, "node-2", 1, 0),
        ({"internalTrafficPolicy": "Local"}, NODE, 0, 0),
        ({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": [port(node_port=30080)]}, "node-2", 0, 1),
        ({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}, NODE, 0, 1),  # I-6.1
    ],
)
def test_gauges_of_ports_without_local_endpoints(spec: Json, where: str, internal: int, external: int) -> None:
    rig = Rig()
    rig.apply(service(**spec), endpoint_slice(endpoints=[endpoint("10.180.0.3", where)]))
    rig.sync()
    found = [
        rig.metric("sync_proxy_rules_no_local_endpoints_total", traffic_policy=policy, **FULL)
        for policy in ("internal", "external")
    ]
    assert found == [internal, external]


# --------------------------------------------------------------------------------------------------- after a success


LOCAL: Json = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32100}


def health(rig: Rig) -> list[tuple[str, int, int]]:
    return [(str(s.service), s.port, s.local_endpoints) for s in rig.proxier.service_health.servers]


def test_health_check_servers_count_distinct_local_ready_addresses() -> None:  # O-13
    rig = Rig()
    rig.apply(service(ports=[port(80), port(443, "https")], **LOCAL))
    endpoints = [
        "10.180.0.1",
        "10.180.0.2",
        endpoint("10.180.0.3", state="serving-terminating"),
        endpoint("10.180.1.4", "node-2"),
    ]
    rig.apply(endpoint_slice(endpoints=endpoints, ports=[slice_port(), slice_port(8443, "https")]))
    assert health(rig) == []
    rig.sync()
    assert health(rig) == [("shop/web", 32100, 2)]


def test_health_check_servers_follow_successful_syncs_only() -> None:
    rig = Rig()
    rig.apply(service(**LOCAL), endpoint_slice())
    rig.sync()
    rig.apply(service(**{**LOCAL, "healthCheckNodePort": 32101}))
    rig.sync(refuse=True)
    assert health(rig) == [("shop/web", 32100, 1)]
    rig.sync()
    assert health(rig) == [("shop/web", 32101, 1)]
    rig.delete(service())
    rig.sync()
    assert health(rig) == []


def test_a_port_moves_to_another_service_in_one_sync() -> None:
    rig = Rig()
    rig.apply(service(**LOCAL), endpoint_slice())
    rig.sync()
    rig.delete(service())
    rig.apply(service("shop/api", **LOCAL))
    rig.sync()
    assert health(rig) == [("shop/api", 32100, 0)]


@pytest.mark.parametrize(("waited_s", "healthy"), [(59, True), (60, False)])
def test_health_after_failures(waited_s: float, healthy: bool) -> None:  # CP-14.1: twice the sync period
    rig = web_rig()
    rig.apply(endpoint_slice(version=2))
    rig.sync(waited_s, refuse=True)
    assert rig.proxier.proxy_health.healthy(rig.now_ns) is healthy
    rig.sync()
    assert rig.proxier.proxy_health.healthy(rig.now_ns)


def test_failures_that_nobody_waits_for_are_healthy() -> None:
    rig = web_rig()
    for _ in range(3):
        rig.sync(61, refuse=True)
    assert rig.proxier.proxy_health.healthy(rig.now_ns)


DNS_FLOW = UdpFlow("udp", "10.180.0.9", 40000, "172.30.10.1", 53, "10.180.0.4", 5353, "10.180.0.9", 40000)


def dns_rig() -> Rig:
    rig = Rig()
    rig.apply(service(ports=[port(53, "dns", "UDP")]), dns_slice("10.180.0.3", "10.180.0.4"))
    rig.sync()
    return rig


def dns_slice(*ips: str, version: int = 1) -> EndpointSlice:
    return endpoint_slice(endpoints=ips, ports=[slice_port(5353, "dns", "UDP")], version=version)


def test_stale_flows_go_with_the_sync_that_removes_their_endpoint() -> None:  # O-12
    rig = dns_rig()
    rig.flows = [DNS_FLOW, DNS_FLOW._replace(reply_src="10.180.0.3")]
    rig.apply(dns_slice("10.180.0.3", version=2))
    assert rig.sync().conntrack_deleted == (DNS_FLOW,)
    assert rig.metric("conntrack_reconciler_sync_duration_seconds_count", **FULL) == 2
    assert rig.metric("conntrack_reconciler_deleted_entries_total", **FULL) == 1


def test_a_failed_sync_loses_the_clean_up() -> None:  # O-12.2
    rig = dns_rig()
    rig.flows = [DNS_FLOW]
    rig.apply(dns_slice("10.180.0.3", version=2))
    assert rig.sync(refuse=True).conntrack_deleted == ()
    assert rig.sync().conntrack_deleted == ()  # the retry does not look either
    rig.apply(dns_slice("10.180.0.3", version=3))
    assert rig.sync().conntrack_deleted == (DNS_FLOW,)


def test_service_changes_alone_look_at_no_flow() -> None:  # O-12.1
    rig = dns_rig()
    rig.flows = [DNS_FLOW._replace(reply_src="172.30.10.1", reply_sport=53)]
    rig.apply(service(ports=[port(53, "dns", "UDP")], externalIPs=["203.0.113.9"]))
    assert rig.sync().conntrack_deleted == ()
    assert rig.metric("conntrack_reconciler_sync_duration_seconds_count", **FULL) == 1


def test_without_udp_there_is_no_clean_up() -> None:
    assert web_rig().metric("conntrack_reconciler_deleted_entries_total", **FULL) is None


def test_families_are_independent() -> None:  # O-1.9
    both = {"ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["172.30.10.1", "fd00:172::1"]}
    texts = []
    for family in Family:
        rig = Rig(family=family)
        rig.apply(
            service(**both), endpoint_slice(), endpoint_slice(endpoints=["fd00:180::3"], family="IPv6", name="web-6")
        )
        texts.append(document(rig.sync()))
        assert rig.metric("sync_proxy_rules_endpoint_changes_total") == 1
    assert "fd00" not in texts[0]
    assert "10.180.0.3" not in texts[1]
    assert all(f":{SVC} - [0:0]" in text for text in texts)


def test_the_same_history_gives_the_same_document() -> None:
    first, second = web_rig(), web_rig()
    assert list(document_differences(first.tables_text(), second.tables_text())) == []
    assert first.tables_text() == second.tables_text()
