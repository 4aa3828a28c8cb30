"""Writes a calibration: the file of costs that scenarios name, the table that people read, and all that was measured."""

from collections.abc import Iterator
from typing import Any

from kpsim.calibration.fitting import Fit
from kpsim.calibration.measuring import Calibration
from kpsim.inputs import JsonObject
from kpsim.units import MILLISECOND_NS, format_duration

_HEAD = """\
# What the tools of kube-proxy's syncs cost on one machine, measured by `kpsim calibrate`. A scenario names this file:
#   delays: {sync: {costs: PATH}}
# It has what iptables, nft, ipset and the kernel take. It lacks what kube-proxy's own process takes to make the rules, its
# addresses on kube-ipvs0, and what a busy node adds.
"""
_MILLION = 1_000_000


def costs_name(kernel: str) -> str:
    """Return the name of a machine's costs: by the first two numbers of its kernel."""
    return f"measured-linux-{'.'.join(kernel.split('-', maxsplit=1)[0].split('.')[:2])}"


def costs_content(found: Calibration, date: str) -> JsonObject:
    """Return the content of the file, see :class:`kpsim.scenario.sync_costs.SyncCosts`. ``date`` is the machine's."""
    machine = {
        "date": date,
        "kernel": found.kernel,
        "cpu": found.cpu,
        "processors": found.processors,
        "tools": {result.subject.key: result.version for result in found.results},
        "clusters": [str(size) for size in found.sizes],
    }
    return {
        "apiVersion": "kpsim.dev/v1alpha1",
        "kind": "SyncCosts",
        "metadata": {"name": costs_name(found.kernel)},
        "machine": machine,
        "costs": {
            result.subject.key: {act.value: _prices(fit) for act, fit in result.fits()} for result in found.results
        },
        **({"notMeasured": found.not_measured} if found.not_measured else {}),
    }


def _prices(fit: Fit) -> JsonObject:
    given = {
        "base": fit.base_ns,
        "perWritten": fit.per_written_ns,
        "perHeld": fit.per_held_ns,
        "perMillionPairs": fit.per_pair_ns * _MILLION,
    }
    return {
        **{name: _duration(ns) for name, ns in given.items() if round(ns)},
        "measurements": len(fit.errors),
        "medianError": round(fit.median_error, 3),
        "worstError": round(fit.worst_error, 3),
    }


def _duration(ns: float) -> str:
    """Return a duration of four digits, which is more than the measurement is good for."""
    digits = max(0, len(str(round(ns))) - 4)
    return format_duration(round(ns / 10**digits) * 10**digits).replace("µ", "u")


def costs_text(found: Calibration, date: str) -> str:
    """Return the file."""
    import yaml

    return _HEAD + yaml.safe_dump(costs_content(found, date), sort_keys=False, allow_unicode=True, width=110)


def costs_json(found: Calibration, date: str) -> JsonObject:
    """Return the file's content and each measurement."""
    return {
        **costs_content(found, date),
        "measurements": [
            {
                "tool": result.subject.key,
                "step": each.step,
                "services": each.size.services,
                "endpoints": each.size.endpoints,
                "act": each.sample.call.act.value,
                "processes": each.sample.call.times,
                "written": each.sample.call.written,
                "held": each.sample.call.held,
                "pairs": each.sample.call.pairs,
                "milliseconds": each.sample.ns / MILLISECOND_NS,
                "wallMilliseconds": each.timing.wall_ns / MILLISECOND_NS,
                "processorMilliseconds": each.timing.processor_ns / MILLISECOND_NS,
                "modelMilliseconds": round(fits[each.sample.call.act].ns(each.sample.call) / MILLISECOND_NS, 3),
                "repetitions": each.repetitions,
            }
            for result in found.results
            for fits in (dict(result.fits()),)
            for each in result.measured
        ],
        "leftOut": [str(size) for size in found.left_out],
        "seconds": round(found.seconds, 1),
    }


def lines(found: Calibration) -> Iterator[str]:
    """Yield what people read: the prices with their errors, then what each sync of the largest cluster takes."""
    yield f"Linux {found.kernel}, {found.processors} processors ({found.cpu}), {found.seconds:.0f} s"
    yield f"clusters of {', '.join(map(str, found.sizes))} (Services × endpoints of each)"
    for result in found.results:
        yield f"\n{result.subject.key}: {result.version}"
        for act, fit in result.fits():
            yield f"  {act.value:<6}{_said(_prices(fit))}"
        largest = found.sizes[-1]
        steps: dict[str, float] = {}
        for each in result.measured:
            if each.size == largest:
                steps.setdefault(each.step, each.sample.ns / MILLISECOND_NS)
        yield f"  {largest}: " + ", ".join(f"{name} {ms:,.1f} ms" for name, ms in steps.items())
    for key, why in found.not_measured.items():
        yield f"\n{key}: not measured: {why}"
    if found.left_out:
        yield f"\nleft out for want of time: {', '.join(map(str, found.left_out))} (--seconds)"
    if len(found.sizes) < 2:
        yield "\none size only: what depends on size cannot be told from what does not (--sizes, --seconds)"


def _said(prices: dict[str, Any]) -> str:
    words = {
        "base": "a process {}",
        "perWritten": "a line written {}",
        "perHeld": "an object held {}",
        "perMillionPairs": "a million pairs {}",
    }
    told = ", ".join(text.format(prices[name]) for name, text in words.items() if name in prices)
    return f"{told or 'nothing'}; off by {prices['medianError']:.0%} as a rule, {prices['worstError']:.0%} at most"
