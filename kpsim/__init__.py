"""kpsim: what will kube-proxy 1.36 do to this packet, on this node, at this moment, and what if?

The functions mirror the command line::

    cluster = kpsim.load("cluster.yaml")              # manifests or a recording
    kpsim.rules(cluster, "node-1")                    # as the mode's own tool has them
    kpsim.trace(cluster, "node-1", "172.30.0.10:80")  # one packet, explained
    result = kpsim.run("local-rollout")               # a scenario, built-in or a file
    kpsim.sweep("local-rollout", seeds=20)            # how its figures vary over seeds and fields
    kpsim.frames(result)                              # pandas frames of its reports
    kpsim.migrate(cluster, "nftables")                # what another proxy mode would change
    kpsim.survey(cluster, vary="mode").frame          # every Service, client and node, under every mode
    kpsim.upgrade(cluster).text()                     # what a node upgrade costs, and what avoids it
    kpsim.explain_config("kube-proxy.yaml", cores=8)  # what kube-proxy does at its start with a configuration

A function imports what it needs when it is first used.
"""

TYPE_CHECKING = False  # importing typing would take longer than all of this
if TYPE_CHECKING:
    from typing import Any

    from kpsim.explore import Cluster, load, rules, trace
    from kpsim.migration.report import MigrationReport, migrate
    from kpsim.result import RunResult, expected, frames, run
    from kpsim.startup import Explanation, explain_config
    from kpsim.surveys import Survey, survey
    from kpsim.sweeping.result import SweepResult
    from kpsim.sweeping.sweep import sweep
    from kpsim.upgrading.result import UpgradeResult
    from kpsim.upgrading.upgrade import upgrade

__all__ = [
    "Cluster", "Explanation", "MigrationReport", "RunResult", "Survey", "SweepResult", "UpgradeResult", "__version__", "expected", "explain_config", "frames", "load", "migrate", "rules", "run",
    "survey", "sweep",
    "trace", "upgrade",
]  # fmt: skip

__version__ = "0.1.0"

_HOME = {
    "Cluster": "kpsim.explore",
    "load": "kpsim.explore",
    "rules": "kpsim.explore",
    "trace": "kpsim.explore",
    "MigrationReport": "kpsim.migration.report",
    "migrate": "kpsim.migration.report",
    "RunResult": "kpsim.result",
    "expected": "kpsim.result",
    "frames": "kpsim.result",
    "run": "kpsim.result",
    "Explanation": "kpsim.startup",
    "explain_config": "kpsim.startup",
    "Survey": "kpsim.surveys",
    "survey": "kpsim.surveys",
    "SweepResult": "kpsim.sweeping.result",
    "sweep": "kpsim.sweeping.sweep",
    "UpgradeResult": "kpsim.upgrading.result",
    "upgrade": "kpsim.upgrading.upgrade",
}


def __getattr__(name: str) -> "Any":
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'kpsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
