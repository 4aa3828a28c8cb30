"""Statements about what differs between two accounts of the same syncs."""

from typing import Any

import pytest

from kpsim.comparison.documents import (
    canonical_tables,
    document_differences,
    outcome_differences,
    run_differences,
    service_port_of,
)

DOCUMENT = """\
*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
-A KUBE-SERVICES -m comment --comment "shop/web:http cluster IP" -m tcp -p tcp -d 172.30.10.1 --dport 80 -j KUBE-SVC-A
-A KUBE-SERVICES -m comment --comment "shop/api cluster IP" -m tcp -p tcp -d 172.30.10.2 --dport 80 -j KUBE-SVC-A
-A KUBE-SVC-A -m comment --comment "shop/web:http -> 10.180.0.3:80" -j KUBE-SEP-1
-A KUBE-SVC-A -m comment --comment "shop/web:http -> 10.180.0.4:80" -j KUBE-SEP-2
-X KUBE-SVC-OLD
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -j KUBE-NODEPORTS
COMMIT
"""
LINES = DOCUMENT.split("\n")


def without(number: int) -> str:
    return "\n".join(LINES[:number] + LINES[number + 1 :])


def swapped(one: int) -> str:
    lines = [*LINES]
    lines[one], lines[one + 1] = lines[one + 1], lines[one]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("actual", "statement"),
    [
        (without(2), "nat: chain missing: :KUBE-SVC-A - [0:0]"),
        (without(3), f"nat/KUBE-SERVICES, shop/web:http: rule missing: {LINES[3]}"),
        (without(7), "nat: deletion missing: -X KUBE-SVC-OLD"),
        (without(8), f"nat/KUBE-SERVICES: rule missing: {LINES[8]}"),
        (
            swapped(5),
            f"nat/KUBE-SVC-A: the same rules in another order: expected as rule 1 {LINES[5]}, got {LINES[6]}",
        ),
        (DOCUMENT.replace("COMMIT", "nonsense\nCOMMIT"), "nat: line not expected: nonsense"),
        ("nonsense\n" + DOCUMENT, "expected the tables nat, got  nat"),
        ("", "expected the tables nat, got none"),
    ],
)
def test_statements_about_documents(actual: str, statement: str) -> None:
    assert list(document_differences(DOCUMENT, actual)) == [statement]


def test_a_changed_rule_is_one_missing_and_one_not_expected() -> None:
    actual = DOCUMENT.replace("-j KUBE-SEP-2", "-j KUBE-SEP-3")
    changed = LINES[6].replace("SEP-2", "SEP-3")
    assert list(document_differences(DOCUMENT, actual)) == [
        f"nat/KUBE-SVC-A, shop/web:http: rule missing: {LINES[6]}",
        f"nat/KUBE-SVC-A, shop/web:http: rule not expected: {changed}",
    ]


@pytest.mark.parametrize("same", [DOCUMENT, swapped(1), swapped(3), "\n\n".join(LINES), DOCUMENT.replace("\n", "\r\n")])
def test_what_makes_no_difference(same: str) -> None:  # I-19.4
    assert list(document_differences(DOCUMENT, same)) == []


def test_rules_of_a_service_port_keep_their_order_in_shared_chains() -> None:  # stably sorted
    first = '-A KUBE-EXTERNAL-SERVICES -m comment --comment "a/x has no endpoints" -m tcp -p tcp -d 1.2.3.4 -j REJECT'
    second = first.replace("1.2.3.4", "1.2.3.3")
    one, other = (f"*filter\n{first}\n{second}\n", f"*filter\n{second}\n{first}\n")
    assert len(list(document_differences(one, other))) == 1


def test_canonical_form() -> None:
    table = canonical_tables(DOCUMENT)["nat"]
    assert table.chains == {":KUBE-SERVICES - [0:0]", ":KUBE-SVC-A - [0:0]"}
    assert table.deleted == {"-X KUBE-SVC-OLD"}
    assert table.rules["KUBE-SERVICES"] == [LINES[4], LINES[3], LINES[8]]
    assert table.rules["KUBE-SVC-A"] == [LINES[5], LINES[6]]


@pytest.mark.parametrize(
    ("comment", "service"),
    [
        ('"shop/web:http cluster IP"', "shop/web:http"),
        ("shop/web", "shop/web"),
        ('"other traffic to shop/web:http will be dropped by KUBE-PROXY-FIREWALL"', "shop/web:http"),
        ('"kubernetes forwarding rules"', ""),
    ],
)
def test_service_port_of_a_rule(comment: str, service: str) -> None:
    assert service_port_of(f"-A X -m comment --comment {comment} -s 10.0.0.0/8 -j Y") == service


def account(**changes: Any) -> dict[str, Any]:
    return {
        "sync": 0,
        "success": True,
        "iptables": {"ensure": ["-t nat -N X"], "restore": [DOCUMENT], "save": DOCUMENT, "largeClusterMode": False},
        "healthChecks": [
            {"service": "shop/web", "port": 32100, "localEndpoints": 1},
            {"service": "shop/api", "port": 32101, "localEndpoints": 0},
        ],
        "conntrackDeleted": [{"proto": "udp", "dport": 53}, {"proto": "udp", "dport": 54}],
        "metrics": {"kubeproxy_x": 1},
    } | changes


@pytest.mark.parametrize(
    ("changes", "statement"),
    [
        ({"success": False}, "success: expected true, got false"),
        ({"success": 1}, "success: expected true, got 1"),
        ({"metrics": {"kubeproxy_x": 2}}, "metrics kubeproxy_x: expected 1, got 2"),
        ({"metrics": {}}, "metrics kubeproxy_x: expected 1, got nothing"),
        ({"metrics": {"kubeproxy_x": 1, "kubeproxy_y": 0}}, "metrics kubeproxy_y: expected nothing, got 0"),
        ({"healthChecks": account()["healthChecks"][1:]}, "healthChecks shop/web: expected [{"),
        (
            {"conntrackDeleted": [{"dport": 53, "proto": "udp"}]},
            'conntrackDeleted: missing: {"dport": 54, "proto": "udp"}',
        ),
        ({"extra": None}, "extra: expected nothing, got null"),
    ],
)
def test_statements_about_a_sync(changes: dict[str, Any], statement: str) -> None:
    (found,) = outcome_differences(account(), account(**changes))
    assert found.startswith(statement)


def test_documents_inside_a_sync() -> None:
    iptables = account()["iptables"] | {"restore": [without(7)], "save": without(2)}
    assert outcome_differences(account(), account(iptables=iptables)) == [
        "restore 0: nat: deletion missing: -X KUBE-SVC-OLD",
        "save: nat: chain missing: :KUBE-SVC-A - [0:0]",
    ]


def test_sets_have_no_order() -> None:
    turned = {name: account()[name][::-1] for name in ("healthChecks", "conntrackDeleted")}
    assert outcome_differences(account(), account(**turned)) == []


def test_runs_are_compared_sync_by_sync() -> None:
    assert run_differences([account(), account()], [account(), account(success=False)]) == [
        "sync 1: success: expected true, got false"
    ]
    assert run_differences([account()], []) == ["expected 1 syncs, got 0"]


@pytest.mark.parametrize(
    "strange", [None, [], {}, "x", {"iptables": {"restore": "x", "save": 5}}, {"healthChecks": [1]}]
)
def test_accounts_of_any_shape_can_be_compared(strange: Any) -> None:
    if isinstance(strange, dict):
        assert outcome_differences(account(), strange)
        assert outcome_differences(strange, strange) == []
    assert outcome_differences({"x": strange}, {"x": 7})
