"""Sessions, plans and diffs as text that cannot deceive (P7): pure functions of strings.

Untrusted text goes through `shannotd.wire.text.visible` and stays right of a gutter that
only this package writes, also where a long line is folded: nothing in a plan can imitate a
line of ours.
"""
