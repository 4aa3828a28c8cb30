"""Counts how many small mistakes in the packet path the tests notice.  ``make mutants``, or for some modules only::

    python tests/mutation [--sample N [--skip M]] [--again REPORT] [--tests PATH …] [MODULE …]

pytest collects the tests once. Each mutant then lives in a fork of that process: the changed function or constant
replaces the real one, and the tests that reach it run until one fails, those first that caught its neighbours. All
mutants take a few minutes; mutation tools that start pytest anew for each mutant need hours for the same.
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running import Mutants, Outcome, Verdict

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.txt")

#: modules that hold only records of what happened
TOLD = ("kpsim.packetpath.steps",)
#: the tests of the packet path and of the rule model that need no kernel
TESTS = tuple(
    f"tests/{name}.py"
    for name in (
        "test_chains", "test_chooser", "test_clashes", "test_conntrack", "test_conntrack_table", "test_delivery",
        "test_dialect_iptables", "test_dialect_iptables_parse", "test_dynamic_sets", "test_explain", "test_explain_nftables", "test_fabric", "test_flowstate",
        "test_flowstate_sctp", "test_flowstate_tcp", "test_foreign_rules", "test_full_table", "test_invalid_answers",
        "test_ipvs_connections", "test_ipvs_hooks", "test_ipvs_lives", "test_ipvs_schedulers", "test_ipvs_states",
        "test_matching", "test_measured_lives", "test_netfilter", "test_netfilter_nat", "test_netfilter_refusals",
        "test_packet_journeys", "test_packet_paths", "test_policy_routing", "test_probes", "test_programmed", "test_recent", "test_reject",
        "test_routing", "test_ruleset", "test_ruleset_operations", "test_sets_and_maps", "test_numbers", "test_source_ports", "test_walk_steps",
        "properties/test_answers", "properties/test_connection_table", "properties/test_endpoints_by_kind", "properties/test_walk_index", "properties/test_walks",
    )
)  # fmt: skip
#: pytest's options: one session, nothing stored, no parallel workers
OPTIONS = "-q --no-header -p no:cacheprovider -p no:xdist --benchmark-disable --assert=plain --tb=no"
_WIDTH = 40  #: of the names in the report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/mutation")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="below kpsim, e.g. packetpath.nat; all if none")
    parser.add_argument("--sample", type=int, default=1, metavar="N", help="every Nth mutant only")
    parser.add_argument(
        "--skip", type=int, default=0, metavar="M", help="of a sample: the mutants M behind those, which are others"
    )
    parser.add_argument("--again", type=Path, metavar="REPORT", help="only the survivors that this output names")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="PATH", help="in place of the usual tests")
    asked = parser.parse_args()
    only = survivors_in(asked.again.read_text("utf-8")) if asked.again else None
    modules = [f"kpsim.{module.removeprefix('kpsim.')}" for module in asked.modules] or packet_path()
    mutants = Mutants(modules, every=asked.sample, skip=asked.skip, only=only, equivalent=frozenset(equivalent()))
    tests = [str(ROOT / path) for path in asked.tests]
    status = pytest.main([*OPTIONS.split(), f"--rootdir={ROOT}", *tests], plugins=[mutants])
    if mutants.outcomes:
        report(mutants)
    return int(status)


def packet_path() -> list[str]:
    """Every module that decides what becomes of a packet, and the rules that it reads. Dialects only read and write those."""
    files = [
        file
        for room in ("packetpath", "flowstate", "ruleset", "ipvs")
        for file in sorted((ROOT / "kpsim" / room).rglob("*.py"))
    ]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return [*(name for name in names if name not in TOLD), "kpsim.netfilter", "kpsim.conntrack"]


def equivalent() -> dict[str, str]:
    """Read the list of equivalent mutants: ``module unit: before → after`` → why no test can notice it."""
    lines = [line for line in EQUIVALENT.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(zip(lines[::2], (reason.strip() for reason in lines[1::2]), strict=True))


def survivors_in(report: str) -> frozenset[str]:
    found = re.findall(r"^(?:survived|undecided): (\S+)\.py:\d+ (.*)$", report, re.MULTILINE)
    return frozenset(f"{path.replace('/', '.')} {mutation}" for path, mutation in found)


def report(mutants: Mutants) -> None:
    for key in mutants.unused_equivalents():
        print(f"equivalent.txt names what is no surviving mutant: {key}")
    print(f"\n{'module':<{_WIDTH}}{'mutants':>8}{'caught':>8}{'equivalent':>12}{'share':>8}")
    for module in mutants.modules:
        print(row(module, [outcome for outcome in mutants.outcomes if outcome.module == module]))
    print(row("all", mutants.outcomes))


def row(name: str, outcomes: list[Outcome]) -> str:
    """Format a module's row. Equivalent mutants count neither as caught nor as missed."""
    counts = Counter(outcome.verdict for outcome in outcomes)  # those that are undecided are named, and not counted
    caught, same = counts[Verdict.CAUGHT], counts[Verdict.EQUIVALENT]
    judged = caught + counts[Verdict.SURVIVED]
    share = f"{caught / judged:.1%}" if judged else "–"
    return f"{name:<{_WIDTH}}{judged + same:>8}{caught:>8}{same:>12}{share:>8}"


if __name__ == "__main__":
    sys.exit(main())
