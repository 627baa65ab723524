"""The servers and poolers of one benchmark, started when a load first needs them, and how each kind of load is run on them."""

from measure import compare, idle, login, poolers, postgres, redis, scaling, servers, start
from measure.certificates import Certificates
from measure.loads import Tls
from measure.poolers import Setup
from measure.tools import has, pgbouncer_prepares

# A connection each, and PostgreSQL forks a process for each: beyond this a direct connection is no sensible comparison.
_DIRECT_CLIENTS = 300
# Of PostgreSQL: as many as the poolers of one load may open, and a direct connection's clients.
_CONNECTIONS = 600
_MOST_IDLE_ROUNDS = 3
_STARTS_A_ROUND = 3


class Bench:
    """One call's servers. `samples` is all it does."""

    def __init__(self, place, chosen):
        self.place, self.chosen = place, chosen
        self.certificates = Certificates(place)
        self._postgres = self._redis = None
        self._running = {}

    @property
    def postgres(self):
        if self._postgres is None:
            pools = max((load.number for load in self.chosen.loads if load.kind == "POOLS"), default=0)
            # Each of two or three poolers may hold one connection of each pool, and more of the first.
            connections = _CONNECTIONS + 3 * pools
            speaks_tls = any(load.tls and load.tls.server for load in self.chosen.loads)
            self._postgres = servers.Postgres(self.place, self.chosen.scale, connections, self.certificates if speaks_tls else None)
        return self._postgres

    @property
    def redis(self):
        if self._redis is None:
            self._redis = servers.Redis(self.place)
        return self._redis

    def samples(self, load):
        """One load on all its targets: the runs of each. Of a scaling load, those of each point."""
        run = {"postgres": self._run_postgres, "login": self._run_login, "redis": self._run_redis, "memory": self._run_memory,
               "start": self._run_start, "scaling": self._run_scaling}
        return run[load.family](load)

    def _wanted(self, *names):
        """Of these targets, those that were asked for and are installed, in the order asked for."""
        return [name for name in self.chosen.targets if name in names and (name.startswith(("sidepool", poolers.FLOOR)) or has(name.split("-")[0]))]

    def _recipe(self, name, setup, sidepool=None):
        """The pooler of that name, ready to be started; in front of PostgreSQL if there is a setup, else of Redis. `sidepool`: its binary."""
        binaries = {"sidepool-other": self.chosen.against, poolers.FLOOR: self.chosen.floor}
        binary = binaries.get(name, sidepool or self.chosen.sidepool)
        if setup is None:
            return poolers.for_redis(self.place, name, self.redis, binary)
        return poolers.for_postgres(self.place, name, setup, self.postgres, self.certificates, binary)

    def _targets(self, names, *setups):
        """The running targets of each setup. Loads that ask for the same meet the same processes; those of other setups are ended."""
        for key in [key for key in self._running if key[1] not in setups]:
            self.place.stop(self._running.pop(key).process)
        for setup in setups:
            for name in names:
                if (name, setup) not in self._running:
                    self._running[name, setup] = self._recipe(name, setup).start(self.place)
        return {setup: [self._running[name, setup] for name in names] for setup in setups}

    def _alternate(self, targets, measure):
        runs = compare.alternate(targets, self.chosen.rounds, measure)
        return {target.name: of_target for target, of_target in zip(targets, runs)}

    def _run_postgres(self, load):
        names = self._wanted(*poolers.PGBOUNCERS, *poolers.SIDEPOOLS, *((poolers.FLOOR,) if load.kind != "P" and not load.tls else ()))
        if load.kind == "P" and not pgbouncer_prepares():
            names = [name for name in names if not name.startswith("pgbouncer")]
        if load.kind == "W" and "pgbouncer" in names:
            names.insert(1, "pgbouncer-64k")
        setup = Setup(tls=load.tls or Tls(), by_socket=load.kind == "U")
        targets = self._targets(names, setup)[setup]
        if "direct" in self.chosen.targets and load.clients <= _DIRECT_CLIENTS and not load.tls:
            targets = [*targets, self.postgres.target()]
        return self._alternate(targets, lambda target: postgres.run(target, load, self.chosen.seconds))

    def _run_login(self, load):
        setup = Setup(auth="scram-sha-256", tls=load.tls or Tls())
        names = self._wanted(*poolers.PGBOUNCERS, *poolers.SIDEPOOLS, *(() if load.tls else (poolers.FLOOR,)))
        targets = self._targets(names, setup)[setup]
        return self._alternate(targets, lambda target: login.run(target, load, self.chosen.seconds))

    def _run_redis(self, load):
        targets = self._targets(self._wanted("nutcracker", "nutcracker-again", *poolers.SIDEPOOLS_FOR_REDIS, poolers.FLOOR), None)[None]
        targets = [*targets, *([self.redis.target()] if "direct" in self.chosen.targets else [])]
        requests = max(1, round(min(redis.warm(target, load) for target in targets) * self.chosen.seconds))
        return self._alternate(targets, lambda target: redis.run(target, load, requests, self.redis.process))

    def _run_scaling(self, load):
        names = self._wanted("pgbouncer", "pgbouncer-again", *poolers.SIDEPOOLS)
        setups = dict.fromkeys(scaling.setup(load, point) for point in load.points)
        running = self._targets(names, *setups)
        return scaling.run(load, self.chosen.rounds, self.chosen.seconds, running.get)

    def _run_memory(self, load):
        """Each run gets a process of its own: resident memory does not fall when clients leave."""
        is_postgres = load.kind == "IDLE"
        names = self._wanted(*(("pgbouncer", "pgbouncer-again", *poolers.SIDEPOOLS) if is_postgres else
                               ("nutcracker", "nutcracker-again", *poolers.SIDEPOOLS_FOR_REDIS)))
        self._targets([])

        def measure(name):
            target = self._recipe(name, Setup() if is_postgres else None).start(self.place)
            try:
                return idle.run(target, load)
            finally:
                self.place.stop(target.process)

        return dict(zip(names, compare.alternate(names, min(self.chosen.rounds, _MOST_IDLE_ROUNDS), measure)))

    def _run_start(self, _):
        names = self._wanted("pgbouncer", "pgbouncer-again", *poolers.SIDEPOOLS)
        self._targets([])

        def measure(name):
            return start.run(self.place, self._recipe(name, Setup(), self.chosen.shipped))

        return dict(zip(names, compare.alternate(names, self.chosen.rounds * _STARTS_A_ROUND, measure)))
