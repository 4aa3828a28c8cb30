"""Says which options that were given have no effect beside others. They are accepted, as they always were."""

from collections.abc import Iterator, Mapping, Sequence

import typer

#: of ``kpsim trace``: what excludes options, the options, and why; by the names of parameters
_TRACE: Sequence[tuple[str, tuple[str, ...], str]] = (
    (
        "probes",
        ("node", "sender", "protocol", "minimal", "summary", "detailed", "expand", "seed", "pcap", "format"),
        "each probe says itself what is sent, and every answer is a JSON line with all outcomes",
    ),
    ("packet", ("protocol",), "the expression says what is sent"),
    ("read_pcap", ("protocol",), "the capture says what is sent"),
    ("rules", ("mode",), "saved rules are what some mode wrote"),
    ("cluster", ("family",), "a cluster has both families, and addresses tell which is meant"),
)


def notes(context: typer.Context, options: Mapping[str, object]) -> Iterator[str]:
    """Yield a note for each option of ``kpsim trace`` that was given and has no effect. ``options`` are the values."""
    names = {param.name: param.opts[0] for param in context.command.params}
    given = {name for name in names if _was_given(context, name)}
    for excluding, excluded, why in _TRACE:
        unused = [names[name] for name in excluded if name in given]
        if options.get(excluding) and unused:
            beside = "a cluster" if excluding == "cluster" else names[excluding]
            yield f"{', '.join(unused)} without effect beside {beside}: {why}"


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
