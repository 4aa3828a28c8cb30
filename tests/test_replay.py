"""Replays of recordings without SYNC lines: the runner decides when a sync runs (CP-9), and a sync takes no time."""

import json

from kpsim.recording import parse_recording
from kpsim.replay import Replay, SyncOutcome
from kpsim.units import SECOND_NS


def service(port: int, name: str = "web") -> dict[str, object]:
    return {
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": "172.30.10.1", "ports": [{"protocol": "TCP", "port": port}]},
    }


def replayed(*events: tuple[float | None, dict[str, object]], min_sync_period: str = "1s") -> list[SyncOutcome]:
    """Outcomes of these additions, each at so many seconds after the first, or at no time."""
    config = {"hostnameOverride": "node-1", "iptables": {"minSyncPeriod": min_sync_period}}
    lines: list[dict[str, object]] = [{"type": "CONFIG", "object": config}]
    for after, obj in events:
        at = {} if after is None else {"at": f"2026-03-01T00:00:{after:09.6f}Z"}
        lines.append({"type": "ADDED", "object": obj, **at})
    return list(Replay(parse_recording(map(json.dumps, lines))).outcomes())


def starts(outcomes: list[SyncOutcome]) -> list[float]:
    return [outcome.after_start_ns / SECOND_NS for outcome in outcomes]


def test_events_without_times_are_the_initial_list() -> None:
    outcomes = replayed((None, service(80)), (None, service(81, "api")))
    assert starts(outcomes) == [0]
    assert outcomes[0].result.full
    assert [str(key) for key in outcomes[0].result.services_changed] == ["shop/web", "shop/api"]


def test_a_burst_is_answered_at_once_and_then_after_the_minimum_pause() -> None:  # I-13.1, CP-16.1
    changes = [(0.0, service(80)), (10.0, service(81)), (10.02, service(82)), (10.5, service(83)), (11.05, service(84))]
    outcomes = replayed(*changes)
    # the first sync is direct; of the burst the first change runs at once, 10.02 and 10.5 a second later, 11.05 after that
    assert starts(outcomes) == [0, 10, 11, 12]
    assert [outcome.result.full for outcome in outcomes] == [True, False, False, False]
    assert "--dport 83 " in outcomes[2].result.transaction.documents[0]()
    assert replayed(*changes)[-1].to_line() == outcomes[-1].to_line()


def test_the_minimum_pause_is_the_configured_one() -> None:
    outcomes = replayed((0.0, service(80)), (10.0, service(81)), (10.02, service(82)), min_sync_period="10s")
    assert starts(outcomes) == [0, 10, 20]


def test_what_changes_nothing_runs_nothing() -> None:  # O-7.2
    assert starts(replayed((0.0, service(80)), (5.0, service(80)))) == [0]


def test_a_change_at_the_instant_of_a_sync_is_in_it() -> None:
    outcomes = replayed((0.0, service(80)), (10.0, service(81)), (10.5, service(82)), (11.0, service(83)))
    assert starts(outcomes) == [0, 10, 11]
    assert "--dport 83 " in outcomes[2].result.transaction.documents[0]()


def test_a_line_for_a_person_says_when_what_and_how_much() -> None:
    first, second = replayed((0.0, service(80)), (2.5, service(81)))
    assert first.to_text().split() == (
        [
            "sync",
            "0",
            "at",
            "0s",
            "full",
            "ok",
            "rules",
            "written:",
            "filter",
            "5",
            "of",
            "5,",
            "nat",
            "5",
            "of",
            "5",
            "[shop/web]",
        ]  # I-7.7: and one REJECT
    )
    assert second.to_text().startswith("sync   1  at     2.5s  partial  ok")
