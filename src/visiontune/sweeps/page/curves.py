"""The curves of a page."""

from visiontune.sweeps.study.curves import Curve


def thin(curve: Curve, most: int) -> Curve:
    """At most `most` points, evenly spread; the first, the last, the smallest and the largest value remain."""
    if len(curve) <= most:
        return curve
    positions = range(len(curve))
    extremes = {min(positions, key=lambda i: curve[i][1]), max(positions, key=lambda i: curve[i][1])}
    count = most - len(extremes)
    even = {round(i * (len(curve) - 1) / (count - 1)) for i in range(count)}
    return [curve[i] for i in sorted(even | extremes)]
