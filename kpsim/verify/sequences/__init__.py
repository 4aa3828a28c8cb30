"""Sequences: packets of flows, changes of the cluster and pauses, drawn and played at a node in the model and in Linux."""
