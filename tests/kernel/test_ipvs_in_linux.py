"""The rules, the ipsets and the local addresses of ipvs mode beside Linux. Its virtual servers are left out: no kernel that
tests run on has ip_vs.
"""

import pytest

from kpsim.config import Mode
from kpsim.lab.tools.variants import Variant
from kpsim.verify.runs import random_clusters, verify

pytestmark = pytest.mark.kernel


def test_random_clusters_in_ipvs_mode_agree_with_linux(kernel: None) -> None:  # IPVS-3.5, IPVS-8
    report = verify(random_clusters(160, 2, seed=3, mode=Mode.IPVS), Variant.NFT)
    assert report.disagreements == ()
    assert report.probes > 50 and "probes to" in report.left_out
