"""The scenario run: control plane, proxiers, packets and faults on one clock, ending in a run log (a value)."""
