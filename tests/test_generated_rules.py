"""Rules that the backend makes are the same values, and have the same texts, as the same rules read from text (I-4, I-17)."""

import re
from pathlib import Path
from typing import Any

import pytest
from proxiers import Rig, endpoint, endpoint_slice, make_settings, port, service

from kpsim.addresses import Family
from kpsim.config import LocalMode
from kpsim.dialects.iptables import Style, parse, render_ruleset
from kpsim.errors import InputError
from kpsim.recording import load_recording
from kpsim.replay import Replay
from kpsim.ruleset import Ruleset

RECORDINGS = sorted((Path(__file__).parent / "golden" / "iptables").glob("*.recording.jsonl"))


def assert_read_back(ruleset: Ruleset) -> None:
    text, saved = render_ruleset(ruleset, Style.KUBE_PROXY), render_ruleset(ruleset, Style.SAVE)
    assert parse(text, ruleset.family) == parse(saved, ruleset.family) == ruleset
    assert render_ruleset(parse(text, ruleset.family), Style.SAVE) == saved
    assert render_ruleset(parse(saved, ruleset.family), Style.SAVE) == saved


@pytest.mark.parametrize("path", RECORDINGS, ids=[path.name.partition(".")[0] for path in RECORDINGS])
def test_recorded_clusters(path: Path) -> None:
    replay = Replay(load_recording(path))
    for _ in replay.outcomes():
        pass
    assert_read_back(replay.proxier.held.ruleset)


#: settings with values that are true of every packet, or of none: iptables-save leaves the former out
SETTINGS: list[dict[str, Any]] = [
    {"cluster_cidr": "10.180.0.7/32"},
    {"detect_local_mode": LocalMode.INTERFACE_NAME_PREFIX, "interface_name_prefix": "cali"},
    {"masquerade_all": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_unusual_settings(settings: dict[str, Any]) -> None:
    assert_read_back(rules_with(settings))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"cluster_cidr": "0.0.0.0/0"}, "no address is outside 0.0.0.0/0"),
        (
            {"detect_local_mode": LocalMode.INTERFACE_NAME_PREFIX, "interface_name_prefix": ""},
            "no interface is outside +",
        ),
        ({"detect_local_mode": LocalMode.BRIDGE_INTERFACE, "bridge_interface": "+"}, "no interface is outside +"),
    ],
    ids=str,
)
def test_rules_that_no_packet_can_match_are_refused_when_they_are_read(settings: dict[str, Any], why: str) -> None:
    """nf_tables refuses the first; iptables-legacy saves the others as rules that match every packet (K-20.7)."""
    with pytest.raises(InputError, match=re.escape(why)):
        assert_read_back(rules_with(settings))


def rules_with(settings: dict[str, Any]) -> Ruleset:
    rig = Rig(make_settings(hostname_override="n", **settings))
    web = service(
        ports=[port(node_port=30080)], type="LoadBalancer", externalTrafficPolicy="Local", ingress=[{"ip": "203.0.113.5"}],
        loadBalancerSourceRanges=["192.168.0.0/16", "198.51.100.7/32"], sessionAffinity="ClientIP",
    )  # fmt: skip
    rig.apply(web, endpoint_slice(endpoints=[endpoint("10.180.0.3", "n"), endpoint("10.180.1.7", "m")]))
    rig.sync()
    ruleset = rig.proxier.held.ruleset
    assert ruleset.family is Family.IPV4
    assert len(ruleset.table("nat").chains) > 10
    return ruleset
