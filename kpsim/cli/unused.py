"""Says which options that were given have no effect beside others, or without them. They are accepted, as they always were."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import typer

from kpsim.cli.options import Format


class _Unused(NamedTuple):
    """Options, by the names of their parameters, and what makes them idle: another that is given, or that none is."""

    options: tuple[str, ...]
    why: str
    beside: str = ""
    without: tuple[str, ...] = ()


_ALLOW_UNKNOWN = _Unused(("allow_unknown",), "no other rules are read", without=("beside",))
_COMMANDS: Mapping[str, Sequence[_Unused]] = {
    "trace": (
        _Unused(
            ("node", "sender", "protocol", "minimal", "summary", "detailed", "expand", "seed", "pcap", "format"),
            "each probe says itself what is sent, and every answer is a JSON line with all outcomes",
            beside="probes",
        ),
        _Unused(("protocol",), "the expression says what is sent", beside="packet"),
        _Unused(("protocol",), "the capture says what is sent", beside="read_pcap"),
        _Unused(("protocol",), "the Service's port says it", beside="service"),
        _Unused(("via",), "only a Service has several addresses", without=("service",)),
        _Unused(("mode",), "saved rules are what some mode wrote", beside="rules"),
        _Unused(("family",), "a cluster has both families, and addresses tell which is meant", beside="cluster"),
        _Unused(("minimal", "summary", "detailed"), "JSON has everything", beside="json"),
        _Unused(("partial",), "only a capture can be damaged", without=("read_pcap",)),
        _Unused(("limit",), "a packet that is drawn goes one way", without=("expand", "probes")),
    ),
    "sweep": (_Unused(("jobs", "long"), "the cluster's workers compute, as long as it takes", beside="scheduler"),),
    "run": (
        _Unused(("long", "walk_all"), "no connection is drawn", beside="exact"),
        _Unused(("scrape_interval",), "nobody reads metrics", without=("metrics",)),
        _Unused(("detailed",), "no connection's way is shown", without=("trace",)),
        _Unused(("detailed",), "JSON has everything", beside="json"),
    ),
    "upgrade": (_Unused(("patch",), "no remedy is tried", beside="no_remedies"),),
    "explain-config": (_Unused(("all_",), "every setting is in it", beside="whole"),),
    "rules": (_ALLOW_UNKNOWN,),
    "migrate": (_ALLOW_UNKNOWN,),
    "survey": (_ALLOW_UNKNOWN,),
    "check": (_Unused(("update",), "only recordings have expected output beside them", without=("recording",)),),
    "verify": (
        _ALLOW_UNKNOWN,
        _Unused(("repeat",), "each drawn probe is sent once", beside="random"),
        _Unused(("repeat",), "each probe is sent as often as it stands there", beside="probes"),
        _Unused(("moments",), "a cluster has one ruleset for each node", without=("scenario",)),
    ),
}
#: what is no option, but what is asked about
_WORDS = {
    "cluster": "a cluster",
    "scenario": "a scenario",
    "recording": "a recording",
    "json": "--format json",
    "whole": "a format that has everything",
    "service": "a Service's name",
}


def notes(context: typer.Context, **facts: object) -> Iterator[str]:
    """Yield a note for each option of the command that was given and has no effect. ``facts`` are of the input, by name."""
    names = {param.name or "": param.opts[0] for param in context.command.params} | _WORDS
    given = {name for name in names if was_given(context, name)}
    values = {**context.params, "json": context.params.get("format") is Format.JSON, **facts}
    for row in _COMMANDS.get(context.command.name or "", ()):
        unused = ", ".join(names[name] for name in row.options if name in given)
        if unused and values.get(row.beside):
            yield f"{unused} without effect beside {names[row.beside]}: {row.why}"
        elif unused and row.without and not any(values.get(name) for name in row.without):
            yield f"{unused} has no effect without {' or '.join(names[name] for name in row.without)}: {row.why}"


def note_unused(context: typer.Context, **facts: object) -> None:
    """Print what :func:`notes` yields."""
    from kpsim.cli.printing import note

    for text in notes(context, **facts):
        note(text)


def was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
