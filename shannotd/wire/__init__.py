"""The published contract between daemon and clients. Loads nothing by itself.

What travels is frozen dataclasses. Paths, arguments and outputs that are not UTF-8 hold their
bytes as surrogate escapes (PEP 383). Times are seconds since the epoch (UTC), durations seconds,
sizes bytes.
"""
