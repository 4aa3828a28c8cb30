"""Surveys: the policy matrix of a cluster. Every frontend, kind of client and node, and what policies and modes change.

Counterpart: dialling every Service from everywhere, with every setting of its policies. ``questions`` says what is asked, ``asking`` asks
it of each variant, ``answers`` follows the packets, ``rows`` and ``loads`` are the frames, ``grids`` and ``writing`` what people see,
and ``matrix`` holds all of it.
"""

from kpsim.surveys.matrix import Survey, survey
from kpsim.surveys.requirements import Requirement, failing, parse_requirement

__all__ = ["Requirement", "Survey", "failing", "parse_requirement", "survey"]
