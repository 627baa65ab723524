"""Alternating runs and what can honestly be said about them: medians, extremes, and ratios of pairs. Pure but for calling `measure`."""

import statistics


def alternate(targets, rounds, measure):
    """Runs every target once a round, each other round backwards (A B B A …), so that a slow drift of the machine favours nobody."""
    samples = {target.name: [] for target in targets}
    for index in range(rounds):
        for target in targets if index % 2 == 0 else list(reversed(targets)):
            samples[target.name].append(measure(target))
    return samples


def spread(values):
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarise(samples, anchor):
    """For each target its figures, and for each but the anchor the ratios to the anchor of the same round."""
    summary = {}
    for name, runs in samples.items():
        summary[name] = {"samples": runs, "figures": _over(runs, lambda run, figure: run.get(figure))}
        if name != anchor and anchor in samples:
            pairs = list(zip(runs, samples[anchor]))
            summary[name]["ratios"] = _over(pairs, lambda pair, figure: _ratio(pair[0].get(figure), pair[1].get(figure)), _names(runs))
    return summary


def _names(runs):
    return list(dict.fromkeys(figure for run in runs for figure in run))


def _over(items, value, names=None):
    found = {}
    for figure in names or _names(items):
        values = [value(item, figure) for item in items]
        values = [value for value in values if value is not None]
        if values:
            found[figure] = spread(values)
    return found


def _ratio(mine, anchor):
    return mine / anchor if mine is not None and anchor else None
