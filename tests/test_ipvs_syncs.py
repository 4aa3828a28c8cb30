"""Syncs in ipvs mode: what changes from one to the next, what a failed one leaves, draining (spec 05)."""

from dataclasses import replace
from typing import Any

import pytest
from ipvs_rigs import (
    FOREIGN_IP,
    ONE,
    TWO,
    bound,
    connections,
    draining,
    entries,
    key,
    node_port_rig,
    number,
    restarted,
    rig_of,
    servers,
    web_rig,
    with_server,
)
from proxiers import NODE_IP, Rig, endpoint, endpoint_slice, node, port, service, slice_port

from kpsim.addresses import Family, format_ip
from kpsim.backends.table import traits_of
from kpsim.config import Host, HostInterface, Mode
from kpsim.ipvs.servers import RealServer, VirtualServer, VirtualServerFlags
from kpsim.maps import Map
from kpsim.ruleset import Element, make_ipset
from kpsim.units import SECOND_NS

# --- real servers -----------------------------------------------------------------------------------------------------


def test_new_servers_stand_in_front() -> None:  # IPVS-11.7
    rig = web_rig()
    assert servers(rig.sync().held) == [(TWO, 1), (ONE, 1)]
    rig.apply(endpoint_slice(endpoints=["10.180.0.1", ONE, endpoint(TWO, "node-2")], version=2))
    assert servers(rig.sync().held) == [("10.180.0.1", 1), (TWO, 1), (ONE, 1)]


def test_a_sync_that_changes_nothing_keeps_each_value() -> None:
    rig = web_rig()
    before = rig.sync().held
    after = rig.sync().held
    assert after == before
    assert after.virtual_servers[key("172.30.10.1")] is before.virtual_servers[key("172.30.10.1")]
    assert all(after.ipsets[name] is of for name, of in before.ipsets.items())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"internalTrafficPolicy": "Local"}, {"172.30.10.1": []}),
        (
            {"internalTrafficPolicy": "Local", "externalIPs": [FOREIGN_IP]},
            {"172.30.10.1": [TWO], FOREIGN_IP: [TWO]},
        ),
        (
            {"externalTrafficPolicy": "Local", "externalIPs": [FOREIGN_IP]},
            {"172.30.10.1": [TWO], FOREIGN_IP: [TWO]},
        ),
    ],
)
def test_a_local_policy_without_local_endpoints_falls_back(spec: Any, expected: Any) -> None:  # IPVS-5.1
    rig = rig_of()
    rig.apply(service(**spec), endpoint_slice(endpoints=[endpoint(TWO, "node-2")]))
    held = rig.sync().held
    assert {ip: [each for each, _ in servers(held, key(ip))] for ip in expected} == expected


def test_a_local_policy_has_the_local_endpoints_for_everyone() -> None:  # IPVS-5.2
    rig = rig_of()
    policies = {"externalTrafficPolicy": "Local", "externalIPs": [FOREIGN_IP]}
    rig.apply(service(**policies), endpoint_slice(endpoints=[ONE, endpoint(TWO, "node-2")]))
    held = rig.sync().held
    assert servers(held, key(FOREIGN_IP)) == [(ONE, 1)]
    assert servers(held) == [(TWO, 1), (ONE, 1)]


def test_two_services_with_one_address_overwrite_each_other() -> None:  # IPVS-5.3
    rig = rig_of()
    rig.apply(service("shop/a", cluster_ip="172.30.10.1", externalIPs=[FOREIGN_IP]), endpoint_slice("shop/a", [ONE]))
    rig.apply(service("shop/b", cluster_ip="172.30.10.2", externalIPs=[FOREIGN_IP]), endpoint_slice("shop/b", [TWO]))
    rig.proxier.use_ipvs_connections(connections({ONE: 1}))
    assert servers(rig.sync().held, key(FOREIGN_IP)) == [(TWO, 1), (ONE, 0)]
    assert draining(rig) == [f"{FOREIGN_IP}:80/TCP/{ONE}:8080"]
    held = rig.sync().held  # a adds its own again and deletes b's, b does the reverse
    assert servers(held, key(FOREIGN_IP)) == [(TWO, 1), (ONE, 0)]
    assert held.virtual_servers[key(FOREIGN_IP)].servers[1].generation == 1


def test_affinity_and_scheduler_are_edited_in_place() -> None:  # IPVS-4.4, IPVS-4.5
    rig = web_rig(ipvs_scheduler="mh")
    before = rig.sync().held.virtual_servers[key("172.30.10.1")]
    assert (before.scheduler, before.flags, before.timeout_s) == ("mh", VirtualServerFlags.SCHEDULER_2, 0)
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
    rig.apply(service(**affinity))
    after = rig.sync().held.virtual_servers[key("172.30.10.1")]
    assert after.flags == VirtualServerFlags.PERSISTENT | VirtualServerFlags.SCHEDULER_2
    assert (after.timeout_s, after.netmask, after.servers) == (60, 32, before.servers)


def test_only_the_first_sync_of_a_process_resets_weights() -> None:  # IPVS-5.4
    rig = web_rig()
    rig.sync()
    quiet = replace(rig.proxier.held.virtual_servers[key("172.30.10.1")].servers[0], weight=0)
    virtual = rig.proxier.held.virtual_servers[key("172.30.10.1")]
    changed = with_server(rig.proxier.held, key("172.30.10.1"), replace(virtual, servers=(quiet, *virtual.servers[1:])))
    rig.proxier.held = changed
    assert servers(rig.sync().held) == [(TWO, 0), (ONE, 1)]
    assert servers(restarted(rig, changed).sync().held) == [(TWO, 1), (ONE, 1)]


def test_a_first_sync_that_fails_was_the_first() -> None:
    rig = web_rig()
    rig.sync(refuse=True)
    virtual = rig.proxier.held.virtual_servers[key("172.30.10.1")]
    quiet = tuple(replace(each, weight=0) for each in virtual.servers)
    rig.proxier.held = with_server(rig.proxier.held, key("172.30.10.1"), replace(virtual, servers=quiet))
    assert servers(rig.sync().held) == [(TWO, 0), (ONE, 0)]


# --- draining ---------------------------------------------------------------------------------------------------------


def drained(rig: Rig) -> Rig:
    """ONE leaves while it has a connection."""
    rig.sync()
    rig.proxier.use_ipvs_connections(connections({ONE: 1}))
    rig.apply(endpoint_slice(endpoints=[endpoint(TWO, "node-2")], version=2))
    assert servers(rig.sync().held) == [(TWO, 1), (ONE, 0)]
    return rig


def test_a_draining_server_goes_with_its_last_connection() -> None:  # IPVS-6.1, IPVS-6.2
    rig = drained(web_rig())
    rig.sync()
    rig.proxier.tick(rig.now_ns)
    assert servers(rig.proxier.held) == [(TWO, 1), (ONE, 0)]
    rig.proxier.use_ipvs_connections(connections({}))
    assert servers(rig.sync().held) == [(TWO, 1), (ONE, 0)]  # a sync does not look
    rig.proxier.tick(rig.now_ns)
    assert (servers(rig.proxier.held), draining(rig)) == ([(TWO, 1)], [])


@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_other_protocols_do_not_drain(protocol: str) -> None:  # IPVS-6.1
    rig = rig_of()
    ports = [slice_port(8080, "http", protocol)]
    rig.apply(service(ports=[port(80, "http", protocol)]), endpoint_slice(endpoints=[ONE, TWO], ports=ports))
    rig.sync()
    rig.proxier.use_ipvs_connections(connections({ONE: 5}))
    rig.apply(endpoint_slice(endpoints=[TWO], ports=ports, version=2))
    assert servers(rig.sync().held, key("172.30.10.1", 80, protocol.lower())) == [(TWO, 1)]


def test_a_server_that_returns_is_deleted_and_added_again() -> None:  # IPVS-6.4
    rig = drained(web_rig())
    rig.apply(endpoint_slice(endpoints=[ONE, endpoint(TWO, "node-2")], version=3))
    held = rig.sync().held
    assert (servers(held), draining(rig)) == ([(ONE, 1), (TWO, 1)], [])
    assert [each.generation for each in held.virtual_servers[key("172.30.10.1")].servers] == [1, 0]


def test_a_restart_forgets_the_list_and_drains_anew() -> None:  # IPVS-6.5
    following = restarted(drained(web_rig()))
    following.proxier.use_ipvs_connections(connections({ONE: 1}))
    assert draining(following) == []
    assert servers(following.sync().held) == [(TWO, 1), (ONE, 0)]
    assert draining(following) == [f"172.30.10.1:80/TCP/{ONE}:8080"]
    calm = restarted(drained(web_rig()))
    assert servers(calm.sync().held) == [(TWO, 1)]


def test_a_listed_server_whose_virtual_server_went_leaves_the_list_at_the_next_look() -> None:  # IPVS-6.2
    rig = drained(web_rig())
    rig.delete(service())
    rig.sync()
    assert key("172.30.10.1") not in rig.proxier.held.virtual_servers
    assert draining(rig) != []
    rig.proxier.tick(rig.now_ns)
    assert draining(rig) == []


@pytest.mark.parametrize("busy", [ONE, TWO])
def test_a_busy_server_does_not_keep_the_other(busy: str) -> None:  # IPVS-6.2
    rig = web_rig()
    rig.sync()
    rig.proxier.use_ipvs_connections(connections({ONE: 1, TWO: 1}))
    rig.apply(endpoint_slice(endpoints=["10.180.0.9"], version=2))
    rig.sync()
    rig.proxier.use_ipvs_connections(connections({busy: 1}))
    rig.proxier.tick(rig.now_ns)
    assert servers(rig.proxier.held) == [("10.180.0.9", 1), (busy, 0)]


def test_a_listed_server_that_something_else_deleted_leaves_the_list() -> None:
    rig = drained(web_rig())
    virtual = rig.proxier.held.virtual_servers[key("172.30.10.1")]
    rig.proxier.held = with_server(rig.proxier.held, key("172.30.10.1"), replace(virtual, servers=virtual.servers[:1]))
    rig.proxier.tick(rig.now_ns)
    assert (draining(rig), servers(rig.proxier.held)) == ([], [(TWO, 1)])


# --- addresses and virtual servers of others --------------------------------------------------------------------------


def with_foreign(**config: Any) -> Rig:
    """A machine with a virtual server and an address that somebody else made."""
    rig = web_rig(**config)
    rig.proxier.held = replace(
        with_server(rig.proxier.held, key(FOREIGN_IP), VirtualServer("wlc", 32, servers=(RealServer(1, 80),))),
        local_addresses=Map({number(FOREIGN_IP): "kube-ipvs0", number("203.0.113.7"): "nodelocaldns"}),
    )
    return rig


def test_what_nobody_wants_is_deleted_whoever_made_it() -> None:  # IPVS-3.4, IPVS-4.6
    held = with_foreign().sync().held
    assert set(held.virtual_servers) == {key("172.30.10.1")}
    assert bound(held) == {"172.30.10.1", "203.0.113.7"}  # that of another device is not kube-proxy's


def test_excluded_networks_keep_their_virtual_servers() -> None:  # IPVS-4.6
    held = with_foreign(ipvs_exclude_cidrs=("203.0.113.0/24", "fd00::/64")).sync().held
    assert set(held.virtual_servers) == {key("172.30.10.1"), key(FOREIGN_IP)}
    assert FOREIGN_IP not in bound(held)
    for others in (("203.0.114.0/24",), ("::/0",), ("none",)):
        assert key(FOREIGN_IP) not in with_foreign(ipvs_exclude_cidrs=others).sync().held.virtual_servers


def test_an_address_that_another_device_has_is_not_bound() -> None:  # IPVS-3.2, IPVS-3.3
    interfaces = (HostInterface("lo", ("127.0.0.1/8",)), HostInterface("eth0", (f"{NODE_IP}/24", f"{FOREIGN_IP}/32")))
    rig = rig_of(Host((NODE_IP,), interfaces))
    rig.apply(service(externalIPs=[FOREIGN_IP, "203.0.113.8"], ingress=["203.0.113.7"]), endpoint_slice())
    held = rig.sync().held
    assert bound(held) == {"172.30.10.1", "203.0.113.8", "203.0.113.7"}
    assert key(FOREIGN_IP) in held.virtual_servers
    assert entries(held, "KUBE-IPVS-IPS") == {(each,) for each in held.local_addresses}
    rig.proxier.use_interfaces(interfaces[:1])  # the address goes: from then on kube-ipvs0 has it
    assert FOREIGN_IP in bound(rig.sync().held)
    rig.proxier.use_interfaces(interfaces)
    assert FOREIGN_IP not in bound(rig.sync().held)


def test_external_ips_can_be_switched_off() -> None:  # O-5.6
    rig = rig_of(allow_service_external_ips=False)
    rig.apply(service(externalIPs=[FOREIGN_IP]), endpoint_slice())
    held = rig.sync().held
    assert set(held.virtual_servers) == {key("172.30.10.1")}
    assert entries(held, "KUBE-EXTERNAL-IP") == set()


def test_services_gone_lose_address_and_virtual_server() -> None:
    rig = web_rig()
    rig.sync()
    rig.delete(service())
    held = rig.sync().held
    assert (set(held.virtual_servers), bound(held)) == (set(), set())
    assert all(not of.elements for of in held.ipsets.values())


# --- node ports -------------------------------------------------------------------------------------------------------


def node_port_addresses(rig: Rig) -> list[str]:
    held = rig.sync().held
    return sorted(format_ip(held.family, each.address) for each in held.virtual_servers if each.port == 30080)


@pytest.mark.parametrize(
    ("cidrs", "expected"),
    [
        ((), ["192.168.0.2", "192.168.7.2"]),
        (("192.168.0.0/24", "127.0.0.0/8"), ["192.168.0.2"]),
        (("127.0.0.0/8",), []),
        (("primary",), ["192.168.0.2"]),
    ],
)
def test_node_ports_are_served_at_the_nodes_addresses(cidrs: tuple[str, ...], expected: list[str]) -> None:  # IPVS-4.2
    assert node_port_addresses(node_port_rig(node_port_addresses=cidrs)) == expected


def test_node_ports_in_ipv6_leave_link_local_addresses_out() -> None:  # IPVS-3.3
    assert node_port_addresses(node_port_rig(Family.IPV6)) == ["2001:db8::2"]


def test_a_network_of_service_addresses_finds_them_on_kube_ipvs0() -> None:  # IPVS-4.2
    rig = node_port_rig(node_port_addresses=("172.30.0.0/16", "192.168.7.0/24"))
    assert node_port_addresses(rig) == ["192.168.7.2"]  # the address is not bound yet when they are listed
    assert node_port_addresses(rig) == ["172.30.10.1", "192.168.7.2"]


def test_without_a_node_address_the_health_check_port_is_closed_too() -> None:  # IPVS-4.3
    rig = node_port_rig(node_port_addresses=("10.99.0.0/16",))
    held = rig.sync().held
    assert entries(held, "KUBE-NODE-PORT-TCP") == entries(held, "KUBE-HEALTH-CHECK-NODE-PORT") == set()
    held = node_port_rig().sync().held
    assert bound(held) == {"172.30.10.1"}
    assert entries(held, "KUBE-NODE-PORT-TCP") == entries(held, "KUBE-NODE-PORT-LOCAL-TCP") == {(30080,)}
    assert entries(held, "KUBE-HEALTH-CHECK-NODE-PORT") == {(32000,)}


def test_a_load_balancer_without_node_port_has_its_health_check_port() -> None:  # IPVS-4.3, IPVS-7.3
    rig = node_port_rig(node_port_addresses=("10.99.0.0/16",))
    rig.apply(
        service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=32000, ingress=["203.0.113.5"])
    )
    assert entries(rig.sync().held, "KUBE-HEALTH-CHECK-NODE-PORT") == {(32000,)}


# --- ipsets -----------------------------------------------------------------------------------------------------------


def test_names_of_ipv6_have_31_characters() -> None:  # IPVS-7.2
    held = node_port_rig(Family.IPV6).sync().held
    assert {"KUBE-6-LOAD-BALANCER-SOURCE-CID", "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS"} <= set(held.ipsets)
    assert len(held.ipsets) == 17
    assert all(name.startswith("KUBE-6-") and len(name) <= 31 for name in held.ipsets)


def test_local_endpoints_are_in_loop_back_whatever_their_state() -> None:  # IPVS-7.3
    rig = rig_of()
    found = [endpoint(ONE, state="unready"), endpoint("10.180.0.4", state="terminating"), endpoint(TWO, "node-2")]
    rig.apply(service(), endpoint_slice(endpoints=found))
    held = rig.sync().held
    locals_ = {(number(ip), "tcp", 8080, number(ip)) for ip in (ONE, "10.180.0.4")}
    assert entries(held, "KUBE-LOOP-BACK") == locals_
    rig.apply(endpoint_slice(endpoints=found[1:], version=2))
    assert len(entries(rig.sync().held, "KUBE-LOOP-BACK")) == 1


def test_a_load_balancer_without_restrictions_is_in_one_set() -> None:  # IPVS-7.3
    rig = rig_of()
    rig.apply(service(type="LoadBalancer", ingress=[FOREIGN_IP]), endpoint_slice())
    held = rig.sync().held
    with_it = {name for name, of in held.ipsets.items() if any(each[0] == number(FOREIGN_IP) for each in of.elements)}
    assert with_it == {"KUBE-LOAD-BALANCER", "KUBE-IPVS-IPS"}
    assert held.ruleset.chain("filter", "KUBE-IPVS-OUT-FILTER").rules == ()


def test_a_set_of_another_type_ends_the_sync_before_any_service() -> None:  # IPVS-7.1, IPVS-9
    rig = web_rig()
    clash = make_ipset("KUBE-EXTERNAL-IP", "hash:ip", Family.IPV4)
    rig.proxier.held = replace(rig.proxier.held, ipsets=Map({clash.name: clash}))
    result = rig.sync()
    assert not result.success
    assert result.transaction.error.startswith("ipset KUBE-EXTERNAL-IP: exists, and is not of the type hash:ip,port")
    assert (result.transaction.documents, set(result.held.virtual_servers)) == ((), set())
    assert set(result.held.ipsets) == {"KUBE-LOOP-BACK", "KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP"}
    assert len(result.held.ruleset.table("filter").chains["INPUT"].rules) == 3  # the jumps were ensured before
    assert rig.metric("sync_proxy_rules_iptables_restore_failures_total", ip_family="IPv4") is None
    assert rig.metric("sync_proxy_rules_duration_seconds_count", ip_family="IPv4") == 1


@pytest.mark.parametrize(
    ("present", "same"),
    [
        (make_ipset("KUBE-CLUSTER-IP", "hash:ip,port", Family.IPV4, [(1, "tcp", 80)]), True),
        (make_ipset("KUBE-CLUSTER-IP", "hash:ip,port", Family.IPV6), False),
        (replace(make_ipset("KUBE-CLUSTER-IP", "hash:ip,port", Family.IPV4), size=10), False),
        (replace(make_ipset("KUBE-CLUSTER-IP", "hash:ip,port", Family.IPV4), timeout_ns=SECOND_NS), False),
    ],
)
def test_a_set_that_exists_is_taken_if_it_is_like_the_wanted_one(present: Any, same: bool) -> None:
    rig = web_rig()
    rig.proxier.held = replace(rig.proxier.held, ipsets=Map({present.name: present}))
    result = rig.sync()
    assert result.success is same
    if same:
        assert entries(result.held, "KUBE-CLUSTER-IP") == {(number("172.30.10.1"), "tcp", 80)}


def test_the_size_of_a_set_s_hash_does_not_matter() -> None:
    rig = web_rig()
    of = make_ipset("KUBE-CLUSTER-IP", "hash:ip,port", Family.IPV4)
    assert of.ipset is not None
    grown = replace(of, ipset=replace(of.ipset, hash_size=4096, bucket_size=12))
    rig.proxier.held = replace(rig.proxier.held, ipsets=Map({of.name: grown}))
    result = rig.sync()
    assert result.success
    assert result.held.ipsets["KUBE-CLUSTER-IP"].ipset == grown.ipset


def test_a_full_set_takes_no_more_and_the_sync_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:  # IPVS-7.6
    monkeypatch.setattr("kpsim.ruleset.ipsets.DEFAULT_MOST_ELEMENTS", 2)
    rig = rig_of()
    for n in range(4):
        rig.apply(service(f"shop/s{n}", cluster_ip=f"172.30.10.{n + 1}"))
    result = rig.sync()
    assert result.success
    assert len(entries(result.held, "KUBE-CLUSTER-IP")) == 2
    assert len(result.held.virtual_servers) == 4
    rig.delete(service("shop/s0", cluster_ip="172.30.10.1"))
    assert len(entries(rig.sync().held, "KUBE-CLUSTER-IP")) == 2  # what was missing found room


def test_an_entry_says_which_service_it_is_of() -> None:
    rig = rig_of()
    rig.apply(service("shop/a", externalIPs=[FOREIGN_IP]))
    origins = {element.origin.service for element in rig.sync().held.ipsets["KUBE-EXTERNAL-IP"].elements.values()}
    assert origins == {"shop/a:http"}
    rig.delete(service("shop/a", externalIPs=[FOREIGN_IP]))
    rig.apply(service("shop/b", externalIPs=[FOREIGN_IP]))
    (element,) = rig.sync().held.ipsets["KUBE-EXTERNAL-IP"].elements.values()
    assert isinstance(element, Element) and element.origin.service == "shop/b:http"


# --- failed syncs -----------------------------------------------------------------------------------------------------


def test_what_a_refused_restore_leaves() -> None:  # IPVS-9
    rig = web_rig()
    rig.sync()
    rules = rig.proxier.held.ruleset
    rig.delete(service())
    rig.apply(service("shop/port", [port(node_port=30080)], cluster_ip="172.30.10.3", type="NodePort"))
    rig.apply(service("shop/new", cluster_ip="172.30.10.2"), endpoint_slice("shop/new", [TWO]))
    result = rig.sync(refuse=True)
    held = result.held
    assert (result.success, result.transaction.error, len(result.transaction.documents)) == (False, "refused", 1)
    new = {key("172.30.10.2"), key("172.30.10.3"), key(NODE_IP, 30080)}
    assert set(held.virtual_servers) == {key("172.30.10.1"), *new}  # the new ones serve, the old one too
    assert bound(held) == {"172.30.10.1", "172.30.10.2", "172.30.10.3"}
    assert {each[0] for each in entries(held, "KUBE-CLUSTER-IP")} == {number("172.30.10.2"), number("172.30.10.3")}
    assert held.ruleset == rules
    assert rig.metric("sync_proxy_rules_iptables_restore_failures_total", ip_family="IPv4") == 1
    rig.sync(refuse=True)
    assert rig.metric("sync_proxy_rules_iptables_restore_failures_total", ip_family="IPv4") == 2
    last = rig.sync()
    assert (set(last.held.virtual_servers), last.transaction.error) == (new, "")
    assert rig.metric("sync_proxy_rules_iptables_restore_failures_total", ip_family="IPv4") == 2


def test_a_failure_does_not_hasten_the_next_sync() -> None:  # IPVS-1.2, IPVS-1.6
    rig = web_rig(sync_period_ns=45 * SECOND_NS)
    assert rig.proxier.reports_success(rig.sync(refuse=True))
    traits = traits_of(Mode.IPVS)
    assert not traits.partial_syncs and traits.tick_ns == 60 * SECOND_NS
    assert traits.longest_pause_ns(rig.settings.config) == 45 * SECOND_NS
    runner = rig.proxier.make_runner()
    runner.start(0)
    runner.begin(runner.next_run_ns() or 0)
    runner.finish(0, ok=True)
    assert runner.next_run_ns() == 45 * SECOND_NS


def test_every_sync_does_everything() -> None:  # IPVS-1.2
    rig = web_rig()
    first, second = rig.sync(), rig.sync()
    assert first.transaction.documents[0]() == second.transaction.documents[0]()
    assert first.full and second.full
    assert [(count.table, count.total == count.last) for count in second.transaction.rule_counts] == [
        ("filter", True), ("nat", True),
    ]  # fmt: skip
    assert rig.metric("sync_full_proxy_rules_duration_seconds_count", ip_family="IPv4") is None
    assert rig.apply(node("zone-a"))  # IPVS-1.6: a changed label asks for a sync


def test_services_without_local_endpoints_are_counted_once() -> None:  # IPVS-9.2
    rig = rig_of()
    two = [port(80, "http"), port(81, "https")]
    ports = [slice_port(8080, "http"), slice_port(8081, "https")]
    remote = [endpoint(TWO, "node-2")]
    rig.apply(service("shop/a", two, internalTrafficPolicy="Local"), endpoint_slice("shop/a", remote, ports))
    local = {"externalTrafficPolicy": "Local", "externalIPs": [FOREIGN_IP], "cluster_ip": "172.30.10.2"}
    rig.apply(service("shop/b", two, **local), endpoint_slice("shop/b", remote, ports))
    rig.apply(service("shop/c", cluster_ip="172.30.10.3", internalTrafficPolicy="Local"))  # no endpoint anywhere
    served = {"internalTrafficPolicy": "Local", "cluster_ip": "172.30.10.4"}
    rig.apply(service("shop/d", **served), endpoint_slice("shop/d", [ONE]))
    assert rig.sync().transaction.no_local_endpoints == (1, 1)
    only_inside = {"internalTrafficPolicy": "Local", "cluster_ip": "172.30.10.5", "externalIPs": ["203.0.113.5"]}
    rig.apply(service("shop/e", **only_inside), endpoint_slice("shop/e", remote))
    assert rig.sync().transaction.no_local_endpoints == (2, 1)


def test_node_ports_that_nobody_serves_do_not_count() -> None:  # IPVS-4.3, IPVS-9.2
    rig = rig_of(node_port_addresses=("10.99.0.0/16",))
    spec = {"type": "NodePort", "externalTrafficPolicy": "Local"}
    rig.apply(service(ports=[port(node_port=30080)], **spec), endpoint_slice(endpoints=[endpoint(TWO, "node-2")]))
    assert rig.sync().transaction.no_local_endpoints == (0, 0)
