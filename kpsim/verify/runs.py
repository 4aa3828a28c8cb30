"""Runs a whole verification: subjects with given, random or systematic probes, or random clusters. ``kpsim verify``
calls it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from kpsim.addresses import Family
from kpsim.explore import load
from kpsim.lab.tools.variants import Variant
from kpsim.tracing.probes import Probe
from kpsim.verify.clock import Clock
from kpsim.verify.drawing.choices import SeededChoices
from kpsim.verify.drawing.clusters import draw_manifest
from kpsim.verify.drawing.probes import draw_probes, every_probe
from kpsim.verify.report import Report
from kpsim.verify.subjects import Subject, cluster_subjects
from kpsim.verify.verification import Verification, Verifier

#: how often a packet whose endpoint is drawn is sent
REPEAT = 20
PROBES_PER_CLUSTER = 100


@dataclass(frozen=True, slots=True)
class Question:
    """A subject and the probes that are sent to it. ``manifest`` holds a random cluster, so that it can be loaded
    again.
    """

    subject: Subject
    probes: Sequence[Probe]
    repeat: int = 1
    manifest: str = ""


def systematic(subjects: Iterable[Subject], repeat: int = REPEAT) -> Iterator[Question]:
    """Probes from every kind of client to every frontend and beside it, and those of the subject's own clients."""
    for subject in subjects:
        probes = every_probe(subject.site, subject.node, subject.family, subject.services)
        yield Question(subject, [*probes, *subject.probes], repeat)


def drawn(subjects: Sequence[Subject], count: int, seed: int, *, manifest: str = "") -> Iterator[Question]:
    """``count`` random probes, shared out among the subjects."""
    for number, subject in enumerate(subjects):
        share = count * (number + 1) // len(subjects) - count * number // len(subjects)
        choices = SeededChoices(seed, "probes", subject.name)
        probes = draw_probes(choices, subject.site, subject.node, subject.family, share, subject.services)
        yield Question(subject, probes, manifest=manifest)


def random_clusters(count: int, clusters: int, seed: int) -> Iterator[Question]:
    """``count`` random probes at the nodes of ``clusters`` random clusters. The same seed draws the same clusters and
    probes.
    """
    for number in range(clusters):
        manifest = draw_manifest(SeededChoices(seed, "cluster", number))
        cluster = load(text=manifest)
        share = count * (number + 1) // clusters - count * number // clusters
        subjects = [replace(each, name=f"cluster {number + 1} · {each.name}") for each in cluster_subjects(cluster)]
        yield from drawn(subjects, share, seed, manifest=manifest)


def given(subjects: Iterable[Subject], probes: Mapping[tuple[str, Family], Sequence[Probe]]) -> Iterator[Question]:
    """Each subject with the probes for its node and family. A subject without probes is left out."""
    for subject in subjects:
        if found := probes.get((subject.node, subject.family)):
            yield Question(subject, found)


def verify(
    questions: Iterable[Question],
    variant: Variant = Variant.NFT,
    *,
    progress: Callable[[str, int], None] = lambda *_: None,
    found: Callable[[Question, Verification], None] = lambda *_: None,
) -> Report:
    """Sends all probes, and reports what was found. LabError if nothing could be measured.

    ``progress`` is called with a subject's name and the number of probes that were sent since the last call.
    ``found`` is called with each question when it is done.
    """
    clock, verifications = Clock(), []
    begun_s = clock.now_s()
    with Verifier(variant) as verifier:
        for question in questions:
            progress(question.subject.name, 0)
            told = partial(progress, question.subject.name)
            result = verifier.verify(question.subject, question.probes, repeat=question.repeat, progress=told)
            verifications.append(result)
            found(question, result)
    return Report(tuple(verifications), variant, clock.now_s() - begun_s)
