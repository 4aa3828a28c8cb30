"""What a change of proxy mode means for one cluster, on one page for the person who has to decide.

``assess`` compares the behaviour of the two modes (:mod:`kpsim.comparison`), looks at the nodes and at the programs
beside kube-proxy, counts what syncs cost, and proposes a configuration. ``page`` puts it into sentences and ``writing``
writes them as text, Markdown or HTML. What is known of a pair of modes is in ``table``.
"""

from kpsim.migration.assessment import Comparison, Migration, assess
from kpsim.migration.page import page
from kpsim.migration.records import migration_record

__all__ = ["Comparison", "Migration", "assess", "migration_record", "page"]
