"""Explanations of traces: a tree at three depths, and JSON.

Counterpart: ovn-trace. It reads journeys that were made with ``trace=True``; it sends no packet.
"""

from kpsim.tracing.explain.records import trace_record
from kpsim.tracing.explain.text import Depth, hop_lines, render_trace
from kpsim.tracing.explain.verdict import minimal, sentence

__all__ = ["Depth", "hop_lines", "minimal", "render_trace", "sentence", "trace_record"]
