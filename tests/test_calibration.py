"""Prices are found in noise, never below zero, and a calibration's file is one that scenarios can name."""

import sys
from typing import Any

import pytest
import yaml

from kpsim.backends.work import Act, Call, Tool
from kpsim.calibration import measuring
from kpsim.calibration.clusters import Size, mode_calling, syncs
from kpsim.calibration.fitting import Fit, Sample, fitted
from kpsim.calibration.measuring import Calibration, Measured, ToolResult
from kpsim.calibration.subjects import ipvsadm, nft
from kpsim.calibration.writing import costs_name, costs_text, lines
from kpsim.cli import main
from kpsim.config import Mode
from kpsim.lab import requirements
from kpsim.lab.timing import Timing
from kpsim.lab.tools import Obstacle
from kpsim.rng import uniform
from kpsim.scenario.sync_costs import parse_costs

US, MS = 1_000, 1_000_000


def nft_call(services: int, written: int | None = None) -> Call:
    """A write as nftables mode makes it: a map, two chains and six lines for each Service."""
    lines = 6 * services if written is None else written
    maps = services if written is None else 1
    return Call(Tool.NFT, Act.WRITE, written=lines, held=3 * services, pairs=maps * services)


def time_of(call: Call, base: float, written: float, held: float, pair: float) -> float:
    return base * call.times + written * call.written + held * call.held + pair * call.pairs


CALLS = [nft_call(n, w) for n in (50, 100, 300, 1000, 3000) for w in (None, 8)]


def test_exact_times_give_back_their_prices() -> None:
    fit = fitted([Sample(call, round(time_of(call, 3 * MS, 15 * US, 4 * US, 120))) for call in CALLS])
    assert fit.base_ns == pytest.approx(3 * MS, rel=1e-3)
    assert fit.per_written_ns == pytest.approx(15 * US, rel=1e-3)
    assert fit.per_held_ns == pytest.approx(4 * US, rel=1e-3)
    assert fit.per_pair_ns == pytest.approx(120, rel=1e-3)
    assert fit.worst_error < 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_a_tenth_moves_predictions_by_less(seed: int) -> None:
    """Ten measurements of each call, each up to a tenth off. What is foretold for three times the largest is within 15 %."""
    prices = (3 * MS, 15 * US, 4 * US, 120)
    samples = [
        Sample(call, round(time_of(call, *prices) * (0.9 + 0.2 * uniform(seed, number, again))))
        for number, call in enumerate(CALLS)
        for again in range(10)
    ]
    fit = fitted(samples)
    for call in (nft_call(10_000), nft_call(10_000, 8)):
        assert fit.ns(call) == pytest.approx(time_of(call, *prices), rel=0.15)
    assert 0.02 < fit.median_error < 0.1


def test_no_price_is_below_zero() -> None:
    """A time that falls with what is held would be fitted best by a negative price."""
    samples = [Sample(Call(Tool.NFT, Act.READ, held=held), 10 * MS - held) for held in range(0, 5 * MS, MS)]
    fit = fitted(samples)
    assert fit.per_held_ns == 0
    assert 5 * MS < fit.base_ns < 10 * MS


def test_what_never_varies_gets_the_least_number_of_prices() -> None:
    fit = fitted([Sample(Call(Tool.IPSET, Act.WRITE, written=1), 2 * MS)] * 3)
    assert fit.ns(Call(Tool.IPSET, Act.WRITE, written=1)) == pytest.approx(2 * MS)
    assert sum(price > 0 for price in (fit.base_ns, fit.per_written_ns, fit.per_held_ns, fit.per_pair_ns)) == 1


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="expected samples"):
        fitted([])


def test_time_that_waited_for_a_processor_does_not_count() -> None:
    busy = Timing(wall_ns=100 * MS, processor_ns=20 * MS, queued_ns=70 * MS)
    assert busy.own_ns == 30 * MS  # ten milliseconds passed in the kernel's own waits
    assert Timing(10 * MS, 12 * MS, 9 * MS).own_ns == 12 * MS
    assert (busy + busy).own_ns == 60 * MS


# --- what is handed over -----------------------------------------------------------------------------------------------


def test_each_tool_is_played_by_the_first_mode_that_calls_it() -> None:
    assert {tool: mode_calling(tool) for tool in Tool} == {
        Tool.IPTABLES: Mode.IPTABLES, Tool.NFT: Mode.NFTABLES, Tool.IPSET: Mode.IPVS, Tool.IP_VS: Mode.IPVS,
    }  # fmt: skip


def test_a_partial_sync_of_nft_hands_over_what_changed_and_lists_all() -> None:
    """NFT-8.4: chains and sets are listed at every sync. One Service's chain is made, emptied and filled."""
    small, large = (syncs(Size(n, 2), Mode.NFTABLES) for n in (50, 100))
    for found in (small, large):
        listing, write = found.partial[0].calls
        assert (listing.act, listing.times, write.act) == (Act.READ, 2, Act.WRITE)
        assert 3 <= write.written <= 8
    # a Service without node port has a chain and a map; every tenth has a second chain
    grown = large.partial[0].calls[0].held - small.partial[0].calls[0].held
    assert grown == 50 * 2 + 5


def test_a_partial_sync_of_iptables_hands_over_the_dispatch_of_all_services() -> None:
    """I-13.3: the shared chains are written whole, so what is written grows with the number of Services."""
    small, large = (syncs(Size(n, 2), Mode.IPTABLES) for n in (50, 100))
    written = [each.partial[0].calls[-1].written for each in (small, large)]
    assert written[1] - written[0] >= 50
    assert written[1] < small.first.calls[-1].written


def test_a_cold_nft_sync_walks_each_map_that_it_has_made() -> None:
    few, many = (syncs(Size(n, 2), Mode.NFTABLES).first.calls[-1].pairs for n in (100, 200))
    assert many == 4 * few == 4 * 100 * 100 // 2
    # one over the same finds all old maps and makes all new ones beside them
    again = syncs(Size(100, 2), Mode.NFTABLES).again.calls[-1].pairs
    assert again >= 3 * few


def test_ipvsadm_gets_servers_in_its_own_words() -> None:
    steps = list(ipvsadm().steps(syncs(Size(20, 2), Mode.IPVS)))
    assert [step.name for step in steps] == ["first", "save", "deletion"]
    text = steps[0].commands[0].stdin.splitlines()
    assert text[:3] == ["-A -t 172.30.0.0:80 -s rr", "-a -t 172.30.0.0:80 -r 10.0.0.0:8080 -m -w 1",
                        "-a -t 172.30.0.0:80 -r 10.0.0.1:8080 -m -w 1"]  # fmt: skip
    assert steps[0].call is not None and steps[0].call.written == len(text) == 60


# --- the file ----------------------------------------------------------------------------------------------------------


def a_calibration() -> Calibration:
    size = Size(100, 2)
    samples = [Sample(call, round(time_of(call, 3 * MS, 15 * US, 4 * US, 120))) for call in CALLS]
    measured = [Measured("first", size, sample, Timing(sample.ns, sample.ns, 0), 2) for sample in samples]
    found = Calibration(
        "6.18.44-fc", "a processor", 2, [ToolResult(nft(), "nft v1", measured)], {"ip_vs": "no"}, [size]
    )
    return found


def test_the_file_is_read_back_with_its_prices() -> None:
    text = costs_text(a_calibration(), "2026-12-01")
    costs = parse_costs(text, "costs.yaml")
    assert costs.metadata.name == "measured-linux-6.18" == costs_name("6.18.44-fc")
    assert (costs.machine.kernel, costs.machine.date, costs.machine.clusters) == (
        "6.18.44-fc",
        "2026-12-01",
        ("100x2",),
    )
    assert costs.not_measured == {"ip_vs": "no"}
    for call in CALLS:
        assert costs.duration_ns([call]) == pytest.approx(time_of(call, 3 * MS, 15 * US, 4 * US, 120), rel=0.002)
    assert costs.costs.nft is not None and costs.costs.nft.write.measurements == len(CALLS)


def test_prices_below_a_nanosecond_keep_their_digits() -> None:
    """A pair costs a fraction of a nanosecond with iptables-legacy, so a million of them have a price."""
    found = a_calibration()
    found.results[0].measured = [
        Measured("first", Size(1, 1), Sample(call, MS + call.pairs // 3), Timing(0, 0, 0), 1) for call in CALLS
    ]
    content: dict[str, Any] = yaml.safe_load(costs_text(found, ""))
    assert content["costs"]["nft"]["write"]["perMillionPairs"].startswith("333")


def test_people_are_told_what_was_not_measured() -> None:
    found = a_calibration()
    found.left_out.append(Size(2000, 2))
    said = "\n".join(lines(found))
    assert "ip_vs: not measured: no" in said
    assert "left out for want of time: 2000x2" in said
    assert "one size only" in said


def test_the_time_of_the_next_cluster_is_foretold_from_the_last_two() -> None:
    took = [measuring._Took(100, 1.0, 2.0), measuring._Took(200, 3.0, 6.0)]
    # it grew by the power 1.58; two repetitions of 6 s, each 2 ** 1.78 times as long
    assert measuring._expected(took, 400) == pytest.approx(2 * 6 * 2**1.785, rel=0.01)
    assert measuring._expected(took[:1], 200) == pytest.approx(2 * 2 * 2)


def test_a_fit_says_how_far_off_it_is() -> None:
    assert Fit(0, 0, 0, 0, (0.1, 0.3, 0.2)).worst_error == 0.3


# --- what a machine lacks ----------------------------------------------------------------------------------------------


def asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["kpsim", "calibrate", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0), capsys.readouterr().err


def test_without_rights_the_command_says_so_and_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kpsim.lab.rootless.become_root", lambda: "the kernel grants this user no namespaces")
    monkeypatch.setattr(requirements, "_missing_rights", lambda: iter([Obstacle("needs root: run it with sudo")]))
    code, said = asked(monkeypatch, capsys)
    assert code == 3
    assert (
        "error: nothing can be measured here: needs root: run it with sudo; the kernel grants this user no namespaces"
        in said
    )


def test_without_any_tool_the_command_names_all_of_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kpsim.lab.rootless.become_root", lambda: "")
    monkeypatch.setattr(requirements, "require_namespaces", lambda **_: None)
    monkeypatch.setenv("PATH", "/nowhere")
    code, said = asked(monkeypatch, capsys)
    assert code == 3
    for tool in ("iptables-nft-restore", "iptables-legacy-restore", "nft", "ipset", "ipvsadm"):
        assert f"not found in PATH: {tool}, " in said


@pytest.mark.parametrize("sizes", ["", "0", "5x", "x5", "a", "1x2x3", "999999x999", "5,,6", "-5"])
def test_sizes_that_are_none_are_refused(
    sizes: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = asked(monkeypatch, capsys, f"--sizes={sizes}")
    assert code == 2 and "expected clusters such as 100x2,1000x10" in said
