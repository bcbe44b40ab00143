"""The full-screen reviewer: where a person decides whether a plan is applied.

The screen is a pure function of a state (`screen`), the state changes by a pure function of
messages (`update`): keys, what the daemon said, what was drawn. What reaches the world is
returned as effects, which `application` and `connection` carry out. Only `application` and
`outside` know of a terminal.
"""
