"""Runs a whole verification: subjects with given, random or systematic probes, or random clusters. ``kpsim verify``
calls it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import yaml

from kpsim.addresses import Family
from kpsim.backends.table import traits_of
from kpsim.config import DEFAULT_MODE, Host, Mode
from kpsim.explore import Cluster, load
from kpsim.inputs import Json
from kpsim.lab.tools.iptables import rules_from
from kpsim.lab.tools.variants import Variant
from kpsim.manifests.proxy_config import KIND
from kpsim.nodes import Machine
from kpsim.tracing.probes import Probe
from kpsim.tracing.site import Site
from kpsim.units import MILLISECOND_NS
from kpsim.verify.clock import Clock
from kpsim.verify.drawing.choices import Choices, SeededChoices, pick, weighted
from kpsim.verify.drawing.circumstances import Circumstances, draw_circumstances, placed
from kpsim.verify.drawing.clusters import draw_manifest
from kpsim.verify.drawing.probes import draw_probes, every_probe
from kpsim.verify.intent.judging import Intent, intent_of
from kpsim.verify.intent.settings import MeantSettings, settings_in
from kpsim.verify.intent.watching import Onlooker
from kpsim.verify.report import Report
from kpsim.verify.sequences.drawing import draw_sequence
from kpsim.verify.sequences.steps import SequenceStep
from kpsim.verify.subjects import Subject, cluster_subjects
from kpsim.verify.verification import Verification, Verifier

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: how often a packet whose endpoint is drawn is sent
REPEAT = 20
PROBES_PER_CLUSTER = 100
_IN_SEQUENCE = 40  #: percent of a random cluster's probes that are packets of a sequence
_LEAST_STEPS = 10  #: a shorter sequence says nothing


@dataclass(frozen=True, slots=True)
class Question:
    """A subject and the probes that are sent to it. ``manifest`` holds a random cluster, so that it can be loaded
    again.
    """

    subject: Subject
    probes: Sequence[Probe] = ()
    repeat: int = 1
    manifest: str = ""
    circumstances: Circumstances = field(default_factory=Circumstances)
    steps: Sequence[SequenceStep] = ()  #: in place of probes: a sequence at the subject's node
    cluster: Cluster | None = None  #: that the sequence changes
    onlooker: Onlooker | None = None  #: knows what is due in the sequence


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


def random_clusters(count: int, clusters: int, seed: int, mode: Mode = DEFAULT_MODE) -> Iterator[Question]:
    """``count`` random probes at the nodes of ``clusters`` random clusters, in random circumstances: two fifths of them
    are packets of a sequence at one node. The same seed draws the same clusters, probes and sequences.

    In a mode in which the lab's kernel lacks what decides, nothing says what is due.
    """
    for number in range(clusters):
        drawing = _Drawn.cluster(seed, number, mode)
        share = count * (number + 1) // clusters - count * number // clusters
        in_sequence = share * _IN_SEQUENCE // 100
        questions = [*drawn(drawing.subjects, share - in_sequence, seed, manifest=drawing.manifest)]
        if in_sequence >= _LEAST_STEPS:
            questions.append(drawing.sequence(SeededChoices(seed, "sequence", number), in_sequence))
        for question in questions:
            named = replace(question.subject, name=f"cluster {number + 1} · {question.subject.name}")
            yield replace(question, subject=named, circumstances=drawing.circumstances)


class _Drawn:
    """A drawn cluster, the circumstances of its nodes, and what is due there."""

    def __init__(self, manifest: str, circumstances: Circumstances) -> None:
        self.manifest, self.circumstances = manifest, circumstances
        self._cluster = cluster_in(manifest, circumstances)
        objects = [each for each in yaml.load_all(manifest, Loader=_Loader) if each]
        self._configuration: Json = next(each for each in objects if each["kind"] == KIND)
        self._objects = [each for each in objects if each is not self._configuration]
        self._settings = None
        if not traits_of(self._cluster.config.mode).unverified:
            self._settings = settings_in(self._configuration, random_fully=circumstances.random_fully)
        self.subjects = [self._placed(each) for each in cluster_subjects(self._cluster)]

    @classmethod
    def cluster(cls, seed: int, number: int, mode: Mode) -> "_Drawn":
        """The cluster of this number."""
        manifest = draw_manifest(SeededChoices(seed, "cluster", number), mode)
        return cls(manifest, draw_circumstances(SeededChoices(seed, "circumstances", number)))

    def _placed(self, subject: Subject) -> Subject:
        """The subject with its circumstances. What is due is known unless other rules decide too."""
        cluster = self._cluster

        def machine(name: str) -> Machine:
            return placed(cluster.site.machine(name), self.circumstances)

        there = replace(subject, site=Site(cluster.node_names, cluster.site.directory, machine, cluster.told))
        if self.circumstances.foreign.rules or self._settings is None:
            return there
        return replace(there, intent=self._intent(there, self._objects, self._settings))

    def _intent(self, subject: Subject, objects: Sequence[Json], settings: MeantSettings) -> Intent:
        machine = subject.site.machine(subject.node)
        closed = self.circumstances.foreign.closed
        return intent_of(objects, settings, subject.node, subject.family, machine, closed=closed)

    def sequence(self, choices: Choices, length: int) -> "Question":
        """A sequence at one of the subjects."""
        subject = pick(choices, self.subjects)
        waits_ns = (10 * MILLISECOND_NS, 1200 * MILLISECOND_NS, 2100 * MILLISECOND_NS)
        steps = draw_sequence(
            choices, subject.site, subject.node, subject.family, length, self._cluster.state, waits_ns=waits_ns,
            patience=weighted(choices, (3, 0), (1, 1), (2, 2)), configuration=self._configuration,
            resets=self.circumstances.foreign.resets,
        )  # fmt: skip
        onlooker = None
        if not self.circumstances.foreign.rules and self._settings is not None:
            onlooker = Onlooker(subject.family, subject.node, self._settings, partial(self._intent, subject))
        return Question(subject, manifest=self.manifest, steps=steps, cluster=self._cluster, onlooker=onlooker)


def cluster_in(manifest: str, circumstances: Circumstances) -> Cluster:
    """A drawn cluster whose nodes have these rules beside kube-proxy's, and this version of iptables."""
    cluster = load(text=manifest)
    texts = ((circumstances.foreign.text(family), family) for family in Family)
    cluster = cluster.with_rules_beside(*(rules_from(text, family) for text, family in texts if text))
    return replace(cluster, host=Host(random_fully=circumstances.random_fully))


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
            if question.cluster is not None:
                cluster, onlooker = question.cluster, question.onlooker
                result = verifier.play(question.subject, cluster, question.steps, onlooker, progress=told)
            else:
                result = verifier.verify(question.subject, question.probes, repeat=question.repeat, progress=told)
            verifications.append(result)
            found(question, result)
    return Report(tuple(verifications), variant, clock.now_s() - begun_s)
