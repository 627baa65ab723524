"""Measures poolers from outside, in alternating runs. Python's standard library only; not a part of sidepool."""


def percentile(sorted_us, share):
    """Of sorted microseconds the one that `share` of them do not exceed, in milliseconds; None of nothing."""
    if not sorted_us:
        return None
    return sorted_us[min(len(sorted_us) - 1, int(len(sorted_us) * share))] / 1000
