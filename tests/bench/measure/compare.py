"""Alternating runs and what can honestly be said about them: medians, extremes, and ratios of pairs. Pure but for calling `measure`."""

import statistics


def alternate(things, rounds, measure):
    """Measures each thing once a round, each other round backwards (A B B A …), so that a slow drift of the machine favours nobody.
    The samples of each, in its place."""
    samples = [[] for _ in things]
    for index in range(rounds):
        for place in range(len(things)) if index % 2 == 0 else reversed(range(len(things))):
            samples[place].append(measure(things[place]))
    return samples


def spread(values):
    """Median, least and most; None of nothing."""
    values = [value for value in values if value is not None]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)} if values else None


def summarise(samples, anchor):
    """For each target its figures, and for each but the anchor the ratios to the anchor, and to a direct connection, of the same round."""
    summary = {}
    for name, runs in samples.items():
        summary[name] = {"samples": runs, "figures": {figure: spread(run.get(figure) for run in runs) for figure in _figures(runs)}}
        for other, key in ((anchor, "ratios"), ("direct", "ratios_to_direct")):
            if other in samples and name not in (other, "direct"):
                summary[name][key] = ratios(runs, samples[other])
    return summary


def ratios(runs, others):
    """Of each figure that both have, the ratio of the runs of the same round."""
    found = {figure: spread(ratio(run.get(figure), other.get(figure)) for run, other in zip(runs, others)) for figure in _figures(runs)}
    return {figure: value for figure, value in found.items() if value}


def ratio(mine, other):
    """None where there is none."""
    return mine / other if mine is not None and other else None


def _figures(runs):
    return list(dict.fromkeys(figure for run in runs for figure in run))
