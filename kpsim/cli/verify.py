"""``kpsim verify``."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.options import (
    AllowUnknownOption,
    AssumeNodeOption,
    BesideOption,
    ClusterCommand,
    DeriveSlicesOption,
    Format,
    FormatOption,
    LongOption,
    ModeOption,
    NodePortRangeOption,
    SysctlOption,
    complete_scenario,
    path_given,
    way_out,
)
from kpsim.cli.printing import console, go_on_without_reader, note, plain_console
from kpsim.errors import InputError
from kpsim.lab.tools.variants import Variant

if TYPE_CHECKING:
    from kpsim.addresses import Family
    from kpsim.effort import Effort
    from kpsim.tracing.probes import Probe
    from kpsim.verify.runs import Question
    from kpsim.verify.subjects import Subject
    from kpsim.verify.verification import Verification


@app.command(
    cls=ClusterCommand,
    short_help="Compare with what this machine's kernel does to packets.",
    epilog="Example: kpsim verify cluster.yaml --node node-1   ·   kpsim verify --random 20000 --clusters 200 --seed 7",
)
def verify(
    context: typer.Context,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCENARIO|CLUSTER",
            help="Scenarios (files or built-in names), manifests or a recording; without any, random clusters.",
            show_default=False,
            autocompletion=complete_scenario,
        ),
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option("--node", metavar="NODE", help="Only this node; may be repeated.")
    ] = None,
    mode: ModeOption = None,
    variant: Annotated[
        Variant, typer.Option("--backend", help="Which iptables loads the rules: over nf_tables or legacy.")
    ] = Variant.NFT,
    probes: Annotated[
        Path | None,
        typer.Option(
            "--probes", metavar="FILE", help="Send these probes: JSON lines, as for trace.", parser=path_given
        ),
    ] = None,
    random: Annotated[
        int, typer.Option("--random", metavar="N", help="Send so many random probes instead of every frontend.", min=0)
    ] = 0,
    clusters: Annotated[
        int,
        typer.Option(
            "--clusters", metavar="N", help="Random clusters to draw; one per 100 probes unless given.", min=0
        ),
    ] = 0,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", help="Seed of what is drawn, and of scenarios.", min=-(2**63), max=2**63 - 1
        ),
    ] = None,
    repeat: Annotated[
        int, typer.Option("--repeat", metavar="N", help="How often to send a packet whose endpoint is drawn.", min=1)
    ] = 20,
    moments: Annotated[
        int, typer.Option("--moments", metavar="N", help="Of a scenario: the most rulesets of each node.", min=2)
    ] = 8,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Change one field of a scenario, or of a cluster's object; may be repeated.",
        ),
    ] = None,
    derive_slices: DeriveSlicesOption = False,
    beside: BesideOption = None,
    allow_unknown: AllowUnknownOption = False,
    sysctl: SysctlOption = None,
    assume_node: AssumeNodeOption = None,
    service_node_port_range: NodePortRangeOption = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Write each case of disagreement here, to send it again.", parser=path_given
        ),
    ] = None,
    long: LongOption = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Build nodes in network namespaces, load the rules into Linux, send every probe, and compare with the model.

    Needs root, or a kernel that grants users namespaces. Exit code 1 if Linux and the model disagree; 3 if nothing could be measured.
    """
    from kpsim.cli.unused import notes
    from kpsim.config import DEFAULT_MODE
    from kpsim.effort import permit
    from kpsim.lab.requirements import require
    from kpsim.lab.rootless import become_root
    from kpsim.outputs import check_directory
    from kpsim.sysctls import assignments
    from kpsim.verify.report import print_report
    from kpsim.verify.runs import PROBES_PER_CLUSTER, drawn, given, random_clusters, systematic
    from kpsim.verify.runs import verify as verify_all
    from kpsim.verify.subjects import is_scenario, load_subjects

    if probes is not None and random:
        raise InputError("give either --probes or --random")
    if out is not None:
        check_directory(out)
        go_on_without_reader()
    count = 0 if paths else clusters or max(1, random // PROBES_PER_CLUSTER)
    permit(_effort(random, count), long=long, note=note)
    require(variant, refused=become_root())
    if not paths:
        _refuse_without_cluster(
            random,
            {"--node": node, "--set": set_, "--beside": beside, "--sysctl": sysctl, "--probes": probes},
        )
        questions, total = random_clusters(random, count, seed or 0, mode or DEFAULT_MODE), random
    elif clusters:
        raise InputError("--clusters goes with random clusters, without scenarios or a cluster")
    else:
        with_scenario = any(map(is_scenario, paths))
        if seed is not None and not (random or with_scenario):
            raise InputError("--seed goes with --random or a scenario")
        with way_out():
            subjects = list(
                load_subjects(
                    paths, mode=mode, seed=seed if with_scenario else None, settings=set_ or (), nodes=node or (), moments=moments,
                    beside=beside or (), unknown="keep" if allow_unknown else "refuse",
                    sysctls=assignments(sysctl or ()), assume_node=assume_node,
                    service_node_port_range=service_node_port_range, derive_slices=derive_slices, note=note,
                )
            )  # fmt: skip
        if probes is not None:
            questions, total = given(subjects, _read_probes(probes, subjects)), None
        elif random:
            questions, total = drawn(subjects, random, seed or 0), random
        else:
            questions, total = systematic(subjects, repeat), None
    for text in notes(context, scenario=any(map(is_scenario, paths or ()))):
        note(text)
    with _progress(total) as progress:
        report = verify_all(questions, variant, progress=progress, found=_writer(out))
    if not report.probes:
        raise InputError("no probe is for a node and family that is verified: nothing was sent")
    if format is Format.JSON:
        typer.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        print_report(report, console() or plain_console())
    if not report.agrees:
        sys.exit(1)


def _effort(probes: int, clusters: int) -> "Effort":
    """Return how long so many drawn probes at so many drawn clusters take."""
    from kpsim.effort import LAB_CLUSTER_S, LAB_PROBE_S, Effort

    told = f"{probes:,} probes" + (f" at {clusters:,} clusters" if clusters else "")
    return Effort(probes * LAB_PROBE_S + clusters * LAB_CLUSTER_S, told)


def _refuse_without_cluster(random: int, options: dict[str, object]) -> None:
    if not random:
        raise InputError("give scenarios or a cluster, or --random N for random clusters")
    for name, value in options.items():
        if value:
            raise InputError(f"{name} goes with scenarios or a cluster")


def _read_probes(path: Path, subjects: "Sequence[Subject]") -> "dict[tuple[str, Family], list[Probe]]":
    """Return the probes of a file by node and family."""
    from kpsim.inputs import read_text, shown_name
    from kpsim.tracing.probes import parse_probes

    lines = read_text(path).split("\n")
    found: dict[tuple[str, Family], list[Probe]] = {}
    for probe in parse_probes(lines, subjects[0].site, file=shown_name(path)):
        if probe.packet.uid or probe.packet.gid:
            raise InputError(f"probe {probe.id}: the lab sends as user and group 0 only")
        found.setdefault((probe.node, probe.packet.family), []).append(probe)
    return found


def _writer(folder: Path | None) -> "Callable[[Question, Verification], None]":
    """Return a function that writes the probes on which the two disagree, and the cluster if it was drawn."""

    def write(question: "Question", verification: "Verification") -> None:
        if folder is None or not verification.disagreements:
            return
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"\W+", "-", verification.subject).strip("-")
        wanted = {each.probe for each in verification.disagreements}
        lines = [json.dumps(probe_record(p), ensure_ascii=False) for p in question.probes if str(p.id) in wanted]
        if lines:
            write_file(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
        if question.manifest:
            write_file(folder / f"{name}.yaml", question.manifest)
        if around := described(question.circumstances, question.subject.family):
            write_file(folder / f"{name}.around.txt", f"{around}\n")
        if question.steps:
            steps = "".join(f"{number} {describe(step)}\n" for number, step in enumerate(question.steps, 1))
            write_file(folder / f"{name}.steps.txt", steps)

    from kpsim.outputs import write_file
    from kpsim.tracing.probes import probe_record
    from kpsim.verify.drawing.circumstances import described
    from kpsim.verify.sequences.steps import describe

    return write


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[str, int], None]]:
    """Show a bar on stderr, on a terminal only."""
    terminal = console(stderr=True)
    if terminal is None:
        yield lambda *_: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("probes"))
    with Progress(*columns, TimeRemainingColumn(), console=terminal, transient=True) as bar:
        task = bar.add_task("building", total=total)
        yield lambda subject, sent: bar.update(task, description=subject, advance=sent)
