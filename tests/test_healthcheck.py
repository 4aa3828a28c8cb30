"""Answers to health probes: CP-14, CP-15, O-13."""

import json

import pytest

from kpsim.addresses import Family, parse_ip, parse_network
from kpsim.config import NodePortAddresses
from kpsim.kubeproxy.healthcheck import ProxyHealth, ServiceHealth, ServiceServer, listen_addresses
from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.objects import Node, node_from_json
from kpsim.units import SECOND_NS, parse_rfc3339_ns

WEB, API = ServiceKey("shop", "web"), ServiceKey("shop", "api")
START_NS = parse_rfc3339_ns("2026-01-01T00:00:00Z")
TIMEOUT_NS = 60 * SECOND_NS


def make_node(taints: tuple[str, ...] = (), deleting: bool = False) -> Node:
    metadata = {"name": "node-1"} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {})
    return node_from_json({"metadata": metadata, "spec": {"taints": [{"key": key} for key in taints]}})


def make_proxy_health(node: Node | None = None) -> ProxyHealth:
    health = ProxyHealth(TIMEOUT_NS)
    health.node_changed(node or make_node())
    for family in Family:
        health.updated(family, START_NS)
    return health


# ------------------------------------------------------------------------------------------------- health check node port


def test_answer_with_local_endpoints_is_200_with_the_count_as_weight() -> None:
    health = ServiceHealth(("0.0.0.0",))
    health.sync_services({WEB: 32100})
    health.sync_endpoints({WEB: 2})
    answer = health.answer(WEB, proxy_healthy=True)
    assert answer.status == 200
    assert answer.headers == (
        ("Content-Type", "application/json"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Load-Balancing-Endpoint-Weight", "2"),
    )
    assert answer.body == (
        '{\n\t"service": {\n\t\t"namespace": "shop",\n\t\t"name": "web"\n\t},\n'
        '\t"localEndpoints": 2,\n\t"serviceProxyHealthy": true\n}'
    )  # CP-15.2


@pytest.mark.parametrize(("count", "proxy_healthy"), [(0, True), (2, False), (0, False)])
def test_answer_is_503_without_endpoints_or_with_an_unhealthy_proxy(count: int, proxy_healthy: bool) -> None:
    health = ServiceHealth(("0.0.0.0",))
    health.sync_services({WEB: 32100})
    health.sync_endpoints({WEB: count})
    answer = health.answer(WEB, proxy_healthy)
    assert answer.status == 503
    assert json.loads(answer.body)["serviceProxyHealthy"] is proxy_healthy


def test_new_server_starts_without_endpoints_and_a_missing_count_is_none() -> None:
    health = ServiceHealth(("0.0.0.0",))
    health.sync_services({WEB: 32100})
    assert health.servers == (ServiceServer(WEB, 32100, 0),)
    health.sync_endpoints({WEB: 3})
    health.sync_endpoints({API: 3})
    assert health.servers == (ServiceServer(WEB, 32100, 0),)  # CP-15.3


def test_changed_port_closes_and_opens_while_an_unchanged_server_keeps_its_count() -> None:
    health = ServiceHealth(("0.0.0.0",))
    health.sync_services({WEB: 32100, API: 32101})
    health.sync_endpoints({WEB: 3, API: 4})
    health.sync_services({WEB: 32109, API: 32101})
    health.sync_endpoints({API: 4})
    assert health.servers == (ServiceServer(API, 32101, 4), ServiceServer(WEB, 32109, 0))
    health.sync_services({})
    assert health.servers == ()


def test_taken_port_is_reported_and_tried_again_at_every_sync() -> None:
    health = ServiceHealth(("0.0.0.0",))
    assert health.sync_services({WEB: 32100, API: 32101}, ports_in_use=frozenset({32100})) == ((WEB, 32100),)
    assert health.servers == (ServiceServer(API, 32101),)
    with pytest.raises(KeyError):
        health.answer(WEB, proxy_healthy=True)
    assert health.sync_services({WEB: 32100, API: 32101}) == ()
    assert health.servers == (ServiceServer(API, 32101), ServiceServer(WEB, 32100))


def test_port_of_another_server_is_taken_until_that_server_closes() -> None:
    health = ServiceHealth(("0.0.0.0",))
    assert health.sync_services({WEB: 32100, API: 32100}) == ((WEB, 32100),)
    assert health.sync_services({WEB: 32100}) == ()
    assert health.servers == (ServiceServer(WEB, 32100),)


def test_server_that_listens_nowhere_gives_no_answer() -> None:
    health = ServiceHealth(())
    assert health.sync_services({WEB: 32100}, ports_in_use=frozenset({32100})) == ()
    health.sync_endpoints({WEB: 2})
    answer = health.answer(WEB, proxy_healthy=True)
    assert (answer.status, answer.headers, answer.body) == (0, (), "")


def test_servers_listen_on_the_matching_node_addresses_or_on_all() -> None:
    def node_ports(*cidrs: str) -> NodePortAddresses:
        return NodePortAddresses(tuple(network for cidr in cidrs if (network := parse_network(cidr))))

    addresses = [parsed[1] for text in ("192.168.0.11", "10.180.0.1") if (parsed := parse_ip(text))]
    assert listen_addresses(node_ports("0.0.0.0/0"), Family.IPV4, addresses) == ("0.0.0.0",)
    assert listen_addresses(node_ports("::/0"), Family.IPV6, []) == ("::",)
    assert listen_addresses(node_ports("192.168.0.0/24"), Family.IPV4, addresses) == ("192.168.0.11",)
    assert listen_addresses(node_ports("203.0.113.0/24"), Family.IPV4, addresses) == ()  # CP-15.1


# -------------------------------------------------------------------------------------------------------- proxy health


def test_healthz_body_names_both_families() -> None:
    health = make_proxy_health()
    answer = health.healthz(START_NS + 5 * SECOND_NS)
    assert answer.status == 200
    assert answer.headers == (("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"))
    assert answer.body == (
        '{"lastUpdated":"2026-01-01T00:00:05Z","currentTime":"2026-01-01T00:00:05Z","nodeEligible":true,"healthy":true,'
        '"status":{"IPv4":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":true},'
        '"IPv6":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":true}}}'
    )


def test_idle_proxy_stays_healthy_for_ever() -> None:
    assert make_proxy_health().healthy(START_NS + 10**9 * SECOND_NS)  # CP-14.1


def test_request_unanswered_for_the_timeout_makes_it_unhealthy() -> None:
    health = make_proxy_health()
    health.queued_update(Family.IPV6, START_NS + 10 * SECOND_NS)
    health.queued_update(Family.IPV6, START_NS + 50 * SECOND_NS)  # the oldest counts
    assert health.livez(START_NS + 70 * SECOND_NS - 1).status == 200
    late = health.livez(START_NS + 70 * SECOND_NS)
    assert late.status == 503
    body = json.loads(late.body)
    assert "nodeEligible" not in body
    assert body["healthy"] is False
    assert {family: status["healthy"] for family, status in body["status"].items()} == {"IPv4": True, "IPv6": False}
    health.updated(Family.IPV6, START_NS + 71 * SECOND_NS)
    assert health.livez(START_NS + 71 * SECOND_NS).status == 200


def test_bad_answer_gives_the_latest_real_update_of_any_family() -> None:
    health = make_proxy_health()
    health.queued_update(Family.IPV6, START_NS)
    health.updated(Family.IPV4, START_NS + 30 * SECOND_NS)
    assert json.loads(health.healthz(START_NS + 60 * SECOND_NS).body)["lastUpdated"] == "2026-01-01T00:00:30Z"


def test_family_that_was_never_updated_is_neither_shown_nor_asked() -> None:
    health = ProxyHealth(TIMEOUT_NS)
    health.node_changed(make_node())
    health.queued_update(Family.IPV4, START_NS)
    answer = health.healthz(START_NS + 600 * SECOND_NS)
    assert answer.status == 200
    assert "status" not in json.loads(answer.body)  # CP-14.1


@pytest.mark.parametrize("node", [make_node(taints=("ToBeDeletedByClusterAutoscaler",)), make_node(deleting=True)])
def test_node_that_is_going_fails_healthz_but_not_livez_nor_the_services(node: Node) -> None:
    health = make_proxy_health(node)
    answer = health.healthz(START_NS)
    assert answer.status == 503
    assert json.loads(answer.body)["healthy"] is True  # CP-14.2: the body's healthy ignores eligibility
    assert health.livez(START_NS).status == 200
    assert health.healthy(START_NS)


def test_other_taints_leave_the_node_eligible_and_an_unknown_node_is_not() -> None:
    assert make_proxy_health(make_node(taints=("dedicated",))).healthz(START_NS).status == 200
    unknown = ProxyHealth(TIMEOUT_NS)
    assert not unknown.node_eligible
    assert unknown.healthz(START_NS).status == 503


def test_a_server_that_opens_answers_0_until_the_next_counts_even_if_counts_came_before() -> None:
    health = ServiceHealth(("0.0.0.0",))
    health.sync_endpoints({WEB: 3})
    health.sync_services({WEB: 32100})
    assert health.servers == (ServiceServer(WEB, 32100, 0),)  # CP-15.3
    health.sync_endpoints({WEB: 3})
    assert health.servers == (ServiceServer(WEB, 32100, 3),)
    health.sync_services({WEB: 32101})  # a change of port closes the server and opens another
    assert health.servers == (ServiceServer(WEB, 32101, 0),)
