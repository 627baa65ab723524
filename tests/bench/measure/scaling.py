"""What a transaction costs as something grows: clients, pools or workers. A load of this kind is one result with several points, and a
verdict on how flat the cost is over them."""

from measure import compare, crowd, loads, postgres
from measure.poolers import Setup
from measure.servers import DATABASE

# Long enough for a figure, short enough for many points.
_MOST_ROUNDS = 3
_CLIENTS_OF_WORKERS = 64


def setup(load, point):
    """What the poolers are told for a point. Only workers need a process of their own: a pool that nobody uses costs nothing here."""
    if load.kind == "WORKERS":
        return Setup(workers=point)
    return Setup(pools=load.points[-1]) if load.kind == "POOLS" else Setup()


def run(load, rounds, seconds, targets_at):
    """Measures all points of all targets in turn, so that ratios between points too are formed within a round. `targets_at` knows the
    targets of a setup. For each point the samples of each target."""
    pairs = [(point, target) for point in load.points for target in targets_at(setup(load, point))]
    measured = compare.alternate(pairs, min(rounds, _MOST_ROUNDS), lambda pair: _measure(load, *pair, seconds))
    samples = {point: {} for point in load.points}
    for (point, target), runs in zip(pairs, measured):
        samples[point][target.name] = runs
    return samples


def summarise(load, samples, anchor):
    """The points, and for each target how flat its cost is."""
    points = [{"at": point, "targets": compare.summarise(of_point, anchor)} for point, of_point in samples.items()]
    return {"points": points, "scaling": {name: _flatness(load, samples, name) for name in samples[load.reference]}}


def _flatness(load, samples, name):
    """The dearest of the judged points, relative to the reference, and the dearest of all relative to the cheapest of all."""
    costs = [{point: of_point[name][index]["cpu_us"] for point, of_point in samples.items()}
             for index in range(len(samples[load.reference][name]))]
    # Only what shows in most rounds is the pooler's: the dearest point is that of the medians.
    growth = {point: compare.spread(cost[point] / cost[load.reference] for cost in costs) for point in load.judged}
    worst = max(growth, key=lambda point: growth[point]["median"], default=load.reference)
    return {"reference": load.reference, "worst_at": worst, "growth": growth.get(worst, {"median": 1.0, "min": 1.0, "max": 1.0}),
            "span": compare.spread(max(cost.values()) / min(cost.values()) for cost in costs)}


def _measure(load, point, target, seconds):
    if load.kind == "CLIENTS" and load.rate:
        return crowd.run(target, point, load.rate, seconds, [DATABASE])
    if load.kind == "CLIENTS":
        return postgres.run(target, loads.Load(f"S{point}", "S", point), seconds)
    if load.kind == "POOLS":
        return crowd.run(target, load.number, load.rate, seconds, [f"pool{index}" for index in range(point)])
    return postgres.run(target, loads.Load(f"S{_CLIENTS_OF_WORKERS}", "S", _CLIENTS_OF_WORKERS), seconds)
