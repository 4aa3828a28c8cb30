"""Explanations of traces: text at three depths, and JSON.

Counterpart: ovn-trace. An explanation reads a journey that was made with ``trace=True``. No packet is sent here.
"""

from kpsim.tracing.explain.records import trace_record
from kpsim.tracing.explain.text import Depth, hop_lines, render_trace
from kpsim.tracing.explain.verdict import minimal, sentence

__all__ = ["Depth", "hop_lines", "minimal", "render_trace", "sentence", "trace_record"]
