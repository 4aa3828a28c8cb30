"""What a person gets from a run log: figures, expectations, a summary, frames, plots, one HTML page and files.

The accounting (`overview`, `affinity`, `local_policy`, `sync_lag`, `figures`, `expectations`, `sentences`) is plain Python,
so that a run without `--out` starts fast; `frames` needs pandas, `plots` matplotlib, `summary` rich, each imported when used.
"""
