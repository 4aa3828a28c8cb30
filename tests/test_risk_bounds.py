"""What ``kpsim risk`` says that is lost at most: runs of the same clusters, over seeds and load balancers, never lose for longer."""

import pytest
from drafts import Json
from situations import DRAIN, EVENT_S, ROLLOUT, Situation, balanced, front, kept, spec

from kpsim.risk.rules import Cause
from kpsim.simulation.runlog import Fate
from kpsim.units import SECOND_NS

OUTSIDE: Json = {"from": "outside", "clients": 9, "via": "loadBalancer"}
LOCAL = [balanced(), *kept("n1", "n3", of=spec(sleep=0))]


def longest_s(situation: Situation, seed: int) -> float:
    """From the first to the last connection that is lost at the drained node."""
    times = [c.at_ns for c in situation.log(seed).connections if c.disposition is not Fate.DELIVERED]
    return (max(times) - min(times)) / SECOND_NS if times else 0.0


@pytest.mark.parametrize(
    ("balancer", "period_s", "failures"),
    [
        ({"interval": "1s", "unhealthyThreshold": 3}, 1, 3),
        ({"interval": "2s", "unhealthyThreshold": 2}, 2, 2),
        ({"preset": "azure"}, 5, 2),
        ({"preset": "aws-nlb"}, 10, 2),
    ],
)
def test_the_window_of_a_load_balancer(balancer: Json, period_s: int, failures: int) -> None:
    """(N + 1) × period and 2 s until the health check fails (FIG-3), and what happens: N × period and the sync (PP-11.7)."""
    most_s = (failures + 1) * period_s + 2
    situation = Situation(LOCAL, DRAIN, EVENT_S + most_s, {**OUTSIDE, "perSecond": 5}, balancer=balancer)
    (finding,) = [each for each in situation.findings() if each.cause is Cause.LOCAL_WINDOW]
    assert finding.seconds == most_s and f"at most {most_s} s" in finding.words
    found = [longest_s(situation, seed) for seed in (1, 2)]
    assert 0 < max(found) <= failures * period_s + 2


@pytest.mark.parametrize(
    ("situation", "cause"),
    [
        (Situation([front(), *kept("n1", of=spec(sleep=0, starts=2))], DRAIN), Cause.ALONE),
        (Situation([front(), *kept("n1", "n3", strategy={"type": "Recreate"})], ROLLOUT), Cause.ROLLOUT),
        (Situation([front(), *kept("n1", "n3", of=spec(sleep=0))], DRAIN, EVENT_S + 4, {"perSecond": 30}), Cause.ENDS_AT_ONCE),
        (  # the load balancer also has to find the node of the new pod
            Situation([balanced(), *kept("n1", of=spec(sleep=0))], DRAIN, EVENT_S + 15, OUTSIDE, balancer={"interval": "3s", "healthyThreshold": 2}),
            Cause.ALONE,
        ),
        (  # and it leaves the old one's while that still serves (CP-15.2)
            Situation([balanced(), *kept("n1", of=spec(sleep=9, starts=5))], DRAIN, EVENT_S + 15, OUTSIDE, balancer={"interval": "1s", "unhealthyThreshold": 1}),
            Cause.ALONE,
        ),
        (  # all nodes have left it before it finds the first new one
            Situation([balanced(), *kept("n1", "n3", of=spec(sleep=9))], ROLLOUT, EVENT_S + 20, OUTSIDE,
                      balancer={"interval": "3s", "unhealthyThreshold": 1, "healthyThreshold": 3}),
            Cause.LOCAL_RETURN,
        ),
        (
            Situation([balanced(), *kept("n1", "n2", "n3", kind="DaemonSet", of=spec(sleep=0), updateStrategy={"rollingUpdate": {"maxUnavailable": 3}})],
                      ROLLOUT, EVENT_S + 15, OUTSIDE, balancer={"interval": "3s", "healthyThreshold": 2}),
            Cause.ROLLOUT,
        ),
    ],
)  # fmt: skip
def test_outages(situation: Situation, cause: Cause) -> None:
    (finding,) = [each for each in situation.findings() if each.cause is cause and not each.event.startswith("losing")]
    assert finding.seconds is not None
    found = [longest_s(situation, seed) for seed in (1, 2)]
    assert 0 < max(found) <= finding.seconds
