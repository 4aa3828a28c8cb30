"""Makes reports from a run log: figures, expectations, a summary, frames, plots, an HTML page and files.

The accounting (`overview`, `affinity`, `local_policy`, `sync_lag`, `figures`, `expectations`, `sentences`) is plain
Python, so that a run without `--out` starts fast. `frames` needs pandas, `plots` matplotlib and `summary` rich; each is
imported when used.
"""
