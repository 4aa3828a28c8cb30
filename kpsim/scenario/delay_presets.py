"""How long kubelets, controllers and the scheduler take where clusters are as usual, each value with its source.

A scenario's ``delays.preset`` names them. Fields that the file gives take precedence.
"""

import enum
from collections.abc import Mapping
from typing import Any, NamedTuple


class DelayPreset(enum.StrEnum):
    """Delays that are known by name."""

    TYPICAL = "typical"


class TypicalDelay(NamedTuple):
    """A field of ``delays``, its value as a file writes it, what it is between, and where the value comes from."""

    field: str
    value: Any
    begins: str
    ends: str
    source: str


TYPICAL: tuple[TypicalDelay, ...] = (
    TypicalDelay(
        "workloadController",
        "25ms",
        "a change of a pod or workload",
        "its controllers create and delete pods",
        "no published figure: a ReplicaSet's and its Deployment's controller see and write in turn, three watches of 5 ms and two writes of"
        " 5 ms; kubernetes#19299 has a write of this controller that took 5 ms",
    ),
    TypicalDelay(
        "scheduler",
        {"choice": {"values": ["10ms", "13ms", "27ms"], "weights": [5, 4, 1]}},
        "a pod is created",
        "it has a node, and its start begins",
        "kubernetes#56053, single pods on GCE: p50 10 ms, p90 13 ms, p99 27 ms; kubernetes#42000 has 9, 13 and 25 ms",
    ),
    TypicalDelay(
        "deletionToKubelet",
        "10ms",
        "a pod's deletion is written",
        "its kubelet begins with the hook or SIGTERM",
        "no published figure: the kubelet's watch (CP-1.2 D2), taken to be as long as kube-proxy's (D8, D9)",
    ),
    TypicalDelay(
        "pleg",
        {"uniform": {"low": "0s", "high": "1s"}},
        "a container runs (with `probes`) or has ended",
        "its kubelet notices",
        "CP-1.2 D2: the kubelet relists every second",
    ),
)


def preset_delays(preset: DelayPreset) -> Mapping[str, Any]:
    """Return the values that a preset gives, as a file writes them, by the fields' names in Python."""
    assert preset is DelayPreset.TYPICAL
    return {_python_name(each.field): each.value for each in TYPICAL}


def _python_name(field: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in field)
