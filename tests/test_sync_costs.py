"""What syncs cost by files of costs: published syncs last what was published, and bad files are refused at their place."""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
from simulations import HEAD

from kpsim import simulation
from kpsim.backends.work import Act, Call, Calls, Tool
from kpsim.calibration.clusters import Size, Syncs, syncs
from kpsim.config import Mode
from kpsim.errors import InputError
from kpsim.lab.tools.variants import Variant
from kpsim.scenario import load_scenario, parse_scenario
from kpsim.scenario.sync_costs import CallCost, SyncCosts, cost_names, load_costs, parse_costs
from kpsim.units import MICROSECOND_NS, MILLISECOND_NS, MINUTE_NS, SECOND_NS, parse_duration_ns

US, MS, S = MICROSECOND_NS, MILLISECOND_NS, SECOND_NS


# --- published syncs last what was published --------------------------------------------------------------------------


@cache
def _syncs(size: Size, mode: Mode) -> Syncs:
    return syncs(size, mode, partial=1)


def _through(xs: tuple[int, ...], ys: list[int], x: int) -> int:
    """The parabola through three points, exactly."""
    total = Fraction(0)
    for i, y in enumerate(ys):
        weight = Fraction(y)
        for j, other in enumerate(xs):
            weight *= Fraction(x - other, xs[i] - other) if i != j else 1
        total += weight
    return round(total)


def calls(mode: Mode, services: int, endpoints: int, which: Callable[[Syncs], Calls]) -> Calls:
    """The calls of a sync in a cluster that is too large to be made. Each of their numbers is a polynomial of degree two
    in the number of Services, so three smaller clusters say what it is. All are large in the sense of I-12.3,
    and have a whole number of endpoints on each of their hundred nodes.
    """
    sizes = tuple(-(-1100 // endpoints // 100) * 100 + more for more in (0, 100, 200))
    columns = zip(*(which(_syncs(Size(n, endpoints), mode)) for n in sizes), strict=True)
    return tuple(
        Call(
            first.tool,
            first.act,
            *(_through(sizes, [each[at] for each in (first, *more)], services) for at in range(2, 6)),
        )
        for first, *more in columns
    )


def _first(found: Syncs) -> Calls:
    return found.first.calls


def _again(found: Syncs) -> Calls:
    return found.again.calls


def _partial(found: Syncs) -> Calls:
    return found.partial[0].calls


def seconds(costs: str, counted: Calls) -> float:
    return load_costs(costs).duration_ns(counted) / S


def test_counts_of_a_cluster_follow_from_smaller_ones() -> None:
    """The parabola is right: a cluster that can be made has the numbers that three smaller ones foretell."""
    for mode in (Mode.IPTABLES, Mode.NFTABLES):
        for which in (_first, _again, _partial):
            foretold = calls(mode, 1000, 2, which)
            for a, b in zip(foretold, which(_syncs(Size(1000, 2), mode)), strict=True):
                assert a[:2] == b[:2] and a[2:] == pytest.approx(b[2:], rel=0.002, abs=3)


@pytest.mark.parametrize(
    ("costs", "mode", "services", "endpoints", "published"),
    [
        ("published-linux-6.8", Mode.IPTABLES, 10_000, 2, 40.1),
        ("published-linux-6.8", Mode.NFTABLES, 10_000, 2, 194),
        ("published-linux-6.1", Mode.NFTABLES, 8_006, 30, 900),
        ("published-linux-6.12", Mode.NFTABLES, 8_006, 30, 240),
        ("published-44k-services", Mode.NFTABLES, 44_125, 1, 1004),
    ],
)
def test_the_first_sync_after_a_restart_lasts_what_was_published(
    costs: str, mode: Mode, services: int, endpoints: int, published: float
) -> None:
    """FIG-2, within 2 %. iptables mode looks for stale chains in the first sync of a process only, if the cluster is large."""
    which = _first if mode is Mode.IPTABLES else _again
    assert seconds(costs, calls(mode, services, endpoints, which)) == pytest.approx(published, rel=0.02)


def test_a_sync_of_one_service_among_44125_lasts_what_was_published() -> None:
    """FIG-2: more than a minute with the listing of 1.36, 63 s of it; 1.3 s with that of 1.37."""
    one = calls(Mode.NFTABLES, 44_125, 1, _partial)
    assert 60 < seconds("published-44k-services", one) < 66
    assert seconds("published-44k-services-netlink", one) == pytest.approx(1.3, rel=0.02)
    listings = tuple(call for call in calls(Mode.NFTABLES, 44_125, 1, _again) if call.act is Act.READ)
    assert seconds("published-44k-services", listings) == pytest.approx(63, rel=0.02)


def test_a_cold_nft_sync_takes_21_milliseconds_for_each_service_among_44125() -> None:
    """FIG-2 has 21 ms for the walk over 44,000 maps. That number was used for no price."""
    whole = calls(Mode.NFTABLES, 44_125, 1, _again)
    assert seconds("published-44k-services", whole) / 44_125 == pytest.approx(0.021, rel=0.1)


def test_what_was_measured_here_is_of_the_same_kind() -> None:
    """A newer kernel and a faster machine: the same order for iptables, a fraction for nft (FIG-2, factor 3 to 4 from 6.1 to 6.12)."""
    iptables = seconds("measured-linux-6.18", calls(Mode.IPTABLES, 10_000, 2, _first))
    nft = seconds("measured-linux-6.18", calls(Mode.NFTABLES, 10_000, 2, _again))
    assert 40.1 / 3 < iptables < 40.1
    assert 194 / 15 < nft < 194


def test_nft_grows_with_the_square_and_a_partial_sync_of_iptables_with_the_services() -> None:
    def nft(services: int) -> float:
        return seconds("published-linux-6.8", calls(Mode.NFTABLES, services, 2, _again))

    def part(services: int) -> float:
        return seconds("published-linux-6.8", calls(Mode.IPTABLES, services, 2, _partial))

    assert 3.5 < nft(20_000) / nft(10_000) < 4
    assert 1.5 < part(20_000) / part(10_000) < 3


# --- prices ------------------------------------------------------------------------------------------------------------

PRICES = """\
apiVersion: kpsim.dev/v1alpha1
kind: SyncCosts
metadata: {name: mine}
costs:
  iptables-nft: {write: {base: 1ms, perWritten: 10us, perHeld: 2us, perMillionPairs: 5ms}, read: {base: 3ms}}
  iptables-legacy: {write: {base: 7s}}
  nft: {write: {base: 2s}}
"""


def test_a_price_counts_processes_lines_objects_and_pairs() -> None:
    call = Call(Tool.NFT, Act.WRITE, times=3, written=10, held=100, pairs=2_000_000)
    prices = {"base": "1ms", "perWritten": "10us", "perHeld": "2us", "perMillionPairs": "5ms"}
    cost = CallCost.model_validate(prices)
    assert cost.duration_ns(call) == 3 * MS + 10 * 10 * US + 100 * 2 * US + 2 * 5 * MS


def test_the_variant_says_which_iptables() -> None:
    costs = parse_costs(PRICES, "mine.yaml")
    call = (Call(Tool.IPTABLES, Act.WRITE),)
    assert costs.duration_ns(call) == costs.duration_ns(call, Variant.NFT) == MS
    assert costs.duration_ns(call, Variant.LEGACY) == 7 * S
    assert costs.lacks((Tool.IPTABLES, Tool.IPSET), None) == ["ipset"]
    either = parse_costs(
        PRICES.replace("iptables-nft", "iptables").replace("  iptables-legacy: {write: {base: 7s}}\n", ""), ""
    )
    assert {either.duration_ns(call, variant) for variant in (None, *Variant)} == {MS}


def test_what_kpsim_has_says_where_it_comes_from() -> None:
    for name in cost_names():
        costs = load_costs(name)
        assert costs.metadata.name == name and costs.description and costs.source
        assert costs.costs.names
    assert load_costs("measured-linux-6.18").machine.kernel.startswith("6.18")


# --- scenarios ---------------------------------------------------------------------------------------------------------


def run_ns(settings: list[str], folder: Path) -> list[int]:
    """How long the syncs of a change took."""
    text = HEAD + "events: [{at: 1s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.9]}}}}]\n"
    log = simulation.run(parse_scenario(text, str(folder / "scenario.yaml"), settings=settings))
    return [sync.end_ns - sync.start_ns for sync in log.syncs if sync.end_ns > sync.start_ns]


def test_a_sync_takes_what_its_tools_take_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(PRICES)
    free = "delays.sync={costs: mine.yaml}"
    assert set(run_ns([free, "proxy.mode=nftables"], tmp_path)) == {2 * S}
    assert set(run_ns(["delays.sync={costs: mine.yaml, iptables: legacy}", "proxy.mode=iptables"], tmp_path)) == {7 * S}
    # what is given beside it comes on top: kube-proxy's own time, if you know it
    assert set(run_ns(["delays.sync={costs: mine.yaml, base: 30ms}", "proxy.mode=nftables"], tmp_path)) == {
        2 * S + 30 * MS
    }
    (took,) = set(run_ns([free, "proxy.mode=iptables"], tmp_path))
    assert 4 * MS < took < 10 * MS  # a save, a restore, and some hundred lines


def test_a_sync_in_ipvs_mode_takes_a_process_for_each_set_and_each_entry(tmp_path: Path) -> None:
    """IPVS-7.1, IPVS-7.5: 17 sets are made and listed at every sync; the new address is one entry and one virtual server."""
    prices = "{write: {base: 1ms}, read: {base: 10ms}, check: {base: 100ms}}"
    servers = "{write: {perWritten: 1s}}"
    text = PRICES[: PRICES.index("  iptables-nft")] + f"  iptables: {{}}\n  ipset: {prices}\n  ip_vs: {servers}\n"
    (tmp_path / "mine.yaml").write_text(text)
    took = run_ns(["delays.sync={costs: mine.yaml}", "proxy.mode=ipvs", "nodes.count=1"], tmp_path)
    idle = 17 * 100 * MS + 17 * 10 * MS
    # the external IP is an entry of KUBE-EXTERNAL-IP and one of KUBE-IPVS-IPS, a virtual server and two real ones
    assert set(took) == {idle, idle + 2 * MS + 3 * S}


def test_costs_of_some_nodes(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(PRICES)
    slow = "delays.onNodes=[{nodes: [node-1], sync: {costs: mine.yaml}}]"
    took = run_ns([slow, "delays.sync={base: 5ms, perRule: 0s}", "proxy.mode=nftables", "nodes.count=2"], tmp_path)
    assert set(took) == {5 * MS, 2 * S}


def refusal(settings: list[str], folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        run_ns(settings, folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["delays.sync={costs: measured-linux-6.17}"], ".delays.sync.costs: 'measured-linux-6.17' is neither a file nor costs that kpsim has"),
        (["delays.sync={costs: gone.yaml}"], "gone.yaml: cannot be read: No such file or directory"),
        (["delays.sync={costs: ''}"], ".delays.sync.costs"),
        (["delays.sync={iptables: legacy}"], ".delays.sync: expected costs beside iptables"),
        (["delays.sync={costs: mine.yaml, iptables: nftables}"], ".delays.sync.iptables: expected 'nft' or 'legacy'"),
        (["delays.sync={costs: mine.yaml}", "proxy.mode=ipvs"],
         "mine.yaml has no costs of ipset and ip_vs, which kube-proxy calls in ipvs mode; it has iptables-nft, iptables-legacy, nft"),
        (["delays.onNodes=[{nodes: [node-1], sync: {costs: published-linux-6.1}}]", "proxy.mode=iptables"],
         ".delays.onNodes[0].sync.costs: published-linux-6.1 has no costs of iptables, which kube-proxy calls in iptables mode; it has nft"),
    ],
)  # fmt: skip
def test_costs_that_cannot_be_are_refused_by_name(settings: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(PRICES)
    assert words in refusal(settings, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("base: 2s", "base: 2", "mine.yaml:7: .costs.nft.write.base: expected a duration with a unit"),
        ("base: 2s", "base: -2s", "mine.yaml:7: .costs.nft.write.base: expected a duration of zero or more"),
        (
            "write: {base: 2s}",
            "writes: {base: 2s}",
            "mine.yaml:7: .costs.nft.writes: unknown field 'writes'; did you mean 'write'?",
        ),
        ("kind: SyncCosts", "kind: Scenario", "mine.yaml:2: .kind: expected 'SyncCosts', got \"Scenario\""),
        ("  nft:", "  ntf:", "mine.yaml:7: .costs.ntf: unknown field 'ntf'; did you mean 'nft'?"),
        ("apiVersion", "- apiVersion", "mine.yaml"),
    ],
)
def test_a_bad_file_of_costs_is_refused_at_its_place(old: str, new: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(PRICES.replace(old, new, 1))
    assert words in refusal(["delays.sync={costs: mine.yaml}"], tmp_path)


def test_costs_are_no_scenario() -> None:
    with pytest.raises(InputError, match=r"mine\.yaml:2: \.kind: expected 'Scenario', got \"SyncCosts\""):
        parse_scenario(PRICES, "mine.yaml")


def test_a_variant_that_decides_nothing_earns_a_note() -> None:
    def notes(costs: str, mode: str) -> str:
        settings = [f"delays.sync={{costs: {costs}, iptables: legacy}}", f"proxy.mode={mode}"]
        return "\n".join(parse_scenario(HEAD, "x.yaml", settings=settings).notes)

    assert "delays.sync.iptables decides nothing: nftables mode calls no iptables" in notes(
        "measured-linux-6.18", "nftables"
    )
    assert "delays.sync.iptables decides nothing: published-linux-6.8 has one price" in notes(
        "published-linux-6.8", "iptables"
    )
    assert "decides nothing" not in notes("measured-linux-6.18", "iptables")


def test_a_mode_that_is_set_later_is_the_one_whose_tools_count(tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text(HEAD + "proxy: {mode: iptables}\n".replace("proxy", "description: x\nproxy"))
    nft_only = ["delays.sync={costs: published-linux-6.1}"]
    simulation.run(load_scenario(file, settings=nft_only, mode="nftables"))
    with pytest.raises(InputError, match="no costs of iptables"):
        simulation.run(load_scenario(file, settings=nft_only))


def test_costs_that_the_command_line_names_may_lie_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a scenario that is built in nobody keeps files. What a scenario's own text names lies beside it."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    text = (Path(load_costs.__code__.co_filename).parent / "costs" / "published-linux-6.8.yaml").read_text()
    (here / "mine.yaml").write_text(text)
    scenario = there / "scenario.yaml"
    scenario.write_text(HEAD)
    monkeypatch.chdir(here)
    assert "mine.yaml" in load_scenario(scenario, settings=["delays.sync.costs=mine.yaml"]).costs
    (there / "mine.yaml").write_text("")
    with pytest.raises(InputError, match=r"there/mine\.yaml: expected one document"):
        load_scenario(scenario, settings=["delays.sync.costs=mine.yaml"])
    (there / "mine.yaml").unlink()
    scenario.write_text(HEAD + "delays: {sync: {costs: mine.yaml}}\n")
    with pytest.raises(InputError, match=r"there/mine\.yaml: cannot be read"):
        load_scenario(scenario)


def test_bounds_of_durations_are_durations() -> None:
    with pytest.raises(InputError, match=r"holdLock\.for: expected at least 1ms, got \"0s\""):
        parse_scenario(HEAD, "x.yaml", settings=["events=[{at: 1s, holdLock: {for: 0s}}]"])


# --- a large cluster ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("families", ["[IPv4]", "[IPv6]", "[IPv6, IPv4]"])
def test_other_services_have_rules_of_the_first_family(families: str) -> None:
    """Each has one chain with one rule (NFT-6.9)."""

    def rules(count: int) -> dict[str, int]:
        text = HEAD[: HEAD.index("workloads:")] + f"otherServices: {{count: {count}, endpoints: 1}}\n"
        settings = [f"nodes.ipFamilies={families}", "proxy.mode=nftables", "nodes.count=1"]
        log = simulation.run(parse_scenario(text, "x.yaml", settings=settings))
        return {sync.family: sync.rules for sync in log.syncs}

    few, many = rules(200), rules(300)
    first, *others = families.strip("[]").split(", ")
    assert many[first] - few[first] == 100
    assert all(many[family] == few[family] for family in others)


def test_other_services_in_the_way_of_another_are_refused() -> None:
    own = "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIP: 172.31.0.7, ports: [{port: 80}]}}"
    with pytest.raises(InputError, match=r"\.otherServices: Service default/x has the name or the cluster IP of one"):
        parse_scenario(
            HEAD, "x.yaml", settings=["otherServices={count: 10}", f"objects=[{own}]", "events=[]", "traffic=[]"]
        )


def test_durations_of_the_table_are_those_that_are_tested() -> None:
    assert (
        parse_duration_ns("3m14s") == 194 * S and parse_duration_ns("16m44s") == 1004 * S and 15 * MINUTE_NS == 900 * S
    )
    assert isinstance(load_costs("published-linux-6.8"), SyncCosts)
