"""Rules of other programs beside kube-proxy's, with every frontend of a cluster: the model and Linux agree."""

from pathlib import Path

import pytest
from shop import cluster_text

from kpsim.explore import load
from kpsim.lab.tools.variants import Variant
from kpsim.verify.runs import systematic, verify
from kpsim.verify.subjects import cluster_subjects

FOREIGN = Path(__file__).parent.parent / "foreign"


@pytest.mark.kernel
@pytest.mark.parametrize("rules", sorted(FOREIGN.glob("*.rules")), ids=lambda file: file.stem)
def test_foreign_rules_agree(rules: Path, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(cluster_text())
    subjects = list(cluster_subjects(load(file, beside=[rules]), ["node-1"]))
    for variant in Variant:
        report = verify(systematic(subjects, repeat=1), variant)
        assert report.agrees, (variant, report.disagreements[:3])
        assert report.probes > 500
