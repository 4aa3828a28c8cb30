"""What happened to that connection, and what the cluster was like at that moment: a run is run again up to there.

A run is a function of its scenario and seed. So the very packet is sent again, with the same draws, connection tables and
affinity lists, and this time each of its steps is kept. ``rerun`` runs again, ``connections`` finds and explains
connections, ``around`` tells what happened around them, ``moments`` describes the cluster, and ``choosing`` picks losses
for a report.
"""
