"""What a fleet of stores carries, worked out from what one store was measured to carry.

    python -m benchmarks.stores_model                    # the table of docs/explanation/scale.md
    python -m benchmarks.stores_model --stores 4 36 --keyed 0.2 --pooled

Two models of one fleet, both deterministic and pure arithmetic:

- ``find_limits``: the law of utilisation. Each thing that can be full (a store, the home store, a worker, a server, the
  connections of a store) is in use by a fixed part, for being connected at all, and by a part that grows with the runs a
  second. The fleet carries what its fullest part lets it; that part is what saturates first.
- ``simulate``: the same parts, tick by tick, with whole runs: they arrive, claim a key at home where they have one, are
  stored, wait and are drained. It shows what the first can't: how a backlog grows and goes, and a store that is away.

The figures come from ``benchmarks/stores_local.py`` (benchmarks/figures/stores.json), which also checks
``predict_shared_drain`` against 1, 2 and 4 real stores.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from headrace.ids import STORE_KEYS

FIGURES: Final = Path(__file__).with_name("figures") / "stores.json"

REGISTRY_READS_PER_S: Final = 0.2
"""Every process rereads the registry of stores this often, at home (and at once when it is told that it changed)."""

MOST_STORES: Final = len(STORE_KEYS)
"""Of one installation: an id says its store by one character."""

HOME: Final = "the home store"
STORE: Final = "a store"
WORKER: Final = "a worker's core"
SLOTS: Final = "a worker's slots"
SERVER: Final = "a server's core"
CONNECTIONS: Final = "connections of a store"

_NEVER: Final = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured of one store, its worker and its server, all on one machine of ``cores`` cores."""

    cores: float
    drain_runs_per_s: float
    drain_others_cores: float
    """Cores that others used while it was measured."""
    drain_worker_cpu_us: float
    drain_store_cpu_us: float
    ingest_items_per_s: float
    ingest_server_cpu_us: float
    ingest_store_cpu_us: float
    idle_worker_cpu_ms_per_s: float
    """A worker at rest, for each store that it serves."""
    idle_worker_store_cpu_ms_per_s: float
    """... and what it costs that store's PostgreSQL."""
    idle_server_cpu_ms_per_s: float
    idle_server_store_cpu_ms_per_s: float
    read_client_cpu_us: float
    read_store_cpu_us: float
    key_claim_store_cpu_us: float
    """Of the home store, for one run in another store whose request or idempotency key is claimed at home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """An installation: so many stores, each PostgreSQL on a machine of its own; processes have a core each."""

    stores: int
    workers: int
    servers: int
    keyed: float = 0.0
    """The share of runs that are triggered one by one: each claims a key at home (of its request, or its own) unless it
    is put there.
    """
    home_weight: float = 1.0
    """The home store's weight for new runs, where the others have 1."""
    run_seconds: float = 0.0
    """How long the code of a run takes, on average; 0 measures headrace alone."""
    concurrency: int = 100
    """Runs that a worker executes at once."""
    store_cores: float = 2.0
    max_connections: int = 500
    pool_size: int = 10
    pooled: bool = False
    """Poolers before the stores: of each process only the listening connection reaches PostgreSQL by itself."""
    pooler_connections: int = 50
    """... and so many of the pooler's."""

    @property
    def home_share(self) -> float:
        """The part of all runs that live in the home store."""
        if self.stores == 1:
            return 1.0
        return self.home_weight / (self.home_weight + self.stores - 1)

    @property
    def processes(self) -> int:
        """All of them are connected to every store: any may be asked for any run, and any worker executes any."""
        return self.workers + self.servers


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that can be full: ``fixed`` is in use already, and ``slope`` more for each run a second of the fleet."""

    name: str
    fixed: float
    slope: float

    @property
    def most(self) -> float:
        """The runs a second at which it is full: nothing where it is so before the first."""
        if self.fixed >= 1:
            return 0.0
        return (1 - self.fixed) / self.slope if self.slope > 0 else math.inf

    def used_at(self, runs_per_s: float) -> float:
        """How full it is; 1 is full."""
        return self.fixed + self.slope * runs_per_s


@dataclass(frozen=True, slots=True)
class Limits:
    """What a fleet carries, and what is full then."""

    runs_per_s: float
    first: str
    parts: tuple[Part, ...]


def find_limits(figures: Figures, fleet: Fleet) -> Limits:
    """The runs a second that a fleet takes in and drains for ever, and what saturates first."""
    parts = list_parts(figures, fleet)
    first = min(parts, key=lambda part: part.most)
    return Limits(first.most, first.name, parts)


def list_parts(figures: Figures, fleet: Fleet) -> tuple[Part, ...]:
    """Everything that can be full, as much as one run a second of the fleet fills of it."""
    life, share = store_seconds(figures), fleet.home_share
    at_rest = _rest_of_store(figures, fleet)
    many = fleet.stores > 1
    # with one store nobody asks for others
    polls = fleet.processes * REGISTRY_READS_PER_S * figures.read_store_cpu_us if many else 0.0
    crowded = count_connections(fleet) > fleet.max_connections
    parts = [
        Part(
            HOME,
            at_rest + polls / (1e6 * fleet.store_cores),
            share * life + fleet.keyed * (1 - share) * _seconds_of_claim(figures, fleet),
        ),
        Part(
            WORKER,
            _rest_of_process(figures, fleet, figures.idle_worker_cpu_ms_per_s),
            figures.drain_worker_cpu_us / 1e6 / fleet.workers,
        ),
        Part(
            SERVER,
            _rest_of_process(figures, fleet, figures.idle_server_cpu_ms_per_s),
            figures.ingest_server_cpu_us / 1e6 / fleet.servers,
        ),
        Part(SLOTS, 0.0, fleet.run_seconds / fleet.concurrency / fleet.workers),
        Part(CONNECTIONS, _NEVER if crowded else 0.0, 0.0),
    ]
    if many:
        parts.append(Part(STORE, at_rest, (1 - share) / (fleet.stores - 1) * life))
    return tuple(parts)


def store_seconds(figures: Figures) -> float:
    """Of a store's time, what one run takes from its ingest to its end: both as they were measured, one after the other."""
    return 1 / figures.ingest_items_per_s + 1 / figures.drain_runs_per_s


def count_connections(fleet: Fleet) -> int:
    """Connections to one store's PostgreSQL at most: every process may fill its pool there, and listens on one more."""
    processes = fleet.processes
    if fleet.pooled:
        return processes + fleet.pooler_connections
    return processes * (fleet.pool_size + 1)


def size_fleet(figures: Figures, fleet: Fleet, *, spare: float = 0.2) -> Fleet:
    """The fleet with as many workers and servers as its stores can keep busy, and ``spare`` of each one's time left.

    Where a process has no time left for work, because it is connected to so many stores, as many as there are stores.
    """
    left_of_worker = 1 - spare - _rest_of_process(figures, fleet, figures.idle_worker_cpu_ms_per_s)
    left_of_server = 1 - spare - _rest_of_process(figures, fleet, figures.idle_server_cpu_ms_per_s)

    def staff(runs_per_s: float) -> Fleet:
        by_cores = _count_needed(runs_per_s * figures.drain_worker_cpu_us / 1e6, left_of_worker, fleet.stores)
        by_slots = math.ceil(runs_per_s * fleet.run_seconds / fleet.concurrency / (1 - spare))
        servers = _count_needed(runs_per_s * figures.ingest_server_cpu_us / 1e6, left_of_server, fleet.stores)
        return replace(fleet, workers=max(by_cores, by_slots), servers=servers)

    # processes for more runs take more of the stores at rest: halved until what they are for is what is left
    low, high = 0.0, _most_of_stores(figures, staff(0.0))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _most_of_stores(figures, staff(middle)) >= middle else (low, middle)
    return staff(low)


def _most_of_stores(figures: Figures, fleet: Fleet) -> float:
    return min(part.most for part in list_parts(figures, fleet) if part.name in {HOME, STORE})


def find_largest_cell(figures: Figures, fleet: Fleet) -> int:
    """The most stores of one installation to which all of its processes can be connected; at least one."""
    fitting = [
        stores
        for stores in range(1, MOST_STORES + 1)
        if count_connections(size_fleet(figures, replace(fleet, stores=stores))) <= fleet.max_connections
    ]
    return max(fitting, default=1)


def predict_shared_drain(
    figures: Figures, stores: int, *, workers: int | None = None, others_cores: float = 0.0
) -> float:
    """Runs a second of so many stores that share one machine's cores, each with a worker of its own unless ``workers`` says.

    As many times as much as one, until a worker's CPU time has filled its core, or that of workers and PostgreSQL together
    the cores that others leave.
    """
    by_workers = (stores if workers is None else workers) * 1e6 / figures.drain_worker_cpu_us
    together = (figures.cores - others_cores) * 1e6 / (figures.drain_worker_cpu_us + figures.drain_store_cpu_us)
    return min(stores * figures.drain_runs_per_s, by_workers, together)


@dataclass(frozen=True, slots=True)
class Tick:
    """The fleet after one tick of a simulation: runs that arrived and that are done since the start, and where the rest is."""

    seconds: float
    arrived: int
    claiming: int
    storing: int
    ready: tuple[int, ...]
    """... in each store."""
    done: int


def simulate(
    figures: Figures,
    fleet: Fleet,
    *,
    offered_per_s: float,
    seconds: float,
    tick: float = 0.1,
    away: Mapping[int, tuple[float, float]] | None = None,
) -> list[Tick]:
    """The fleet tick by tick while ``offered_per_s`` runs arrive; store 0 is home.

    ``away`` names stores that answer nothing from one second to another. Roots are minted by weight among the stores that
    are there; a keyed one waits until home has answered. What comes goes before what is there: a store that is offered
    more than it can drain takes it in, and its backlog grows. Nothing is random.
    """
    fleet_now = _Simulation(figures, fleet)
    ticks: list[Tick] = []
    for number in range(round(seconds / tick)):
        absent = {store for store, (start, end) in (away or {}).items() if start <= number * tick < end}
        ticks.append(fleet_now.step(number, tick, offered_per_s * tick, absent))
    return ticks


class _Credit:
    """So much a tick; what is left of less than one run is kept, what is left of more was idle time and is lost."""

    def __init__(self) -> None:
        self.left = 0.0

    def add(self, amount: float) -> None:
        self.left = min(self.left, 1.0) + amount

    def take(self, wanted: int, each: float = 1.0) -> int:
        """As many of ``wanted`` as there is credit for, at ``each``."""
        taken = max(0, min(wanted, math.floor(self.left / each + 1e-9)))
        self.left -= taken * each
        return taken


class _Simulation:
    """Whole runs that go from stage to stage: claiming a key, storing, ready, done."""

    def __init__(self, figures: Figures, fleet: Fleet) -> None:
        parts = {part.name: part for part in list_parts(figures, fleet)}
        self._fleet = fleet
        self._figures = figures
        self._life = store_seconds(figures)
        free = [max(0.0, 1 - parts.get(STORE, parts[HOME]).fixed)] * fleet.stores
        free[0] = max(0.0, 1 - parts[HOME].fixed)
        self._free = free if parts[CONNECTIONS].fixed < 1 else [0.0] * fleet.stores
        self._workers_rate = min(parts[WORKER].most, parts[SLOTS].most)
        self._servers_rate = parts[SERVER].most
        self._offered, self._keyed, self._workers, self._servers = _Credit(), _Credit(), _Credit(), _Credit()
        self._seconds = [_Credit() for _ in range(fleet.stores)]
        self._owed = [0.0] * fleet.stores
        self._claiming = self._arrived = self._done = 0
        self._unminted = 0
        self._storing = [0] * fleet.stores
        self._ready = [0] * fleet.stores

    def step(self, number: int, tick: float, offered: float, absent: set[int]) -> Tick:
        """One tick, its stages in the order of a run's life."""
        for store, credit in enumerate(self._seconds):
            # in lives of a run, so that what is left of one is less than one, as of every credit
            if store in absent:
                credit.left = 0.0
            else:
                credit.add(self._free[store] * tick / self._life)
        self._workers.add(self._workers_rate * tick)
        self._servers.add(self._servers_rate * tick)
        self._arrive(offered)
        self._claim_keys()
        self._mint(absent)
        turns = [(number + turn) % self._fleet.stores for turn in range(self._fleet.stores)]  # no store is always last
        for stage in (self._ingest, self._drain):
            for store in turns:
                stage(store)
        storing = sum(self._storing) + self._unminted
        return Tick((number + 1) * tick, self._arrived, self._claiming, storing, tuple(self._ready), self._done)

    def _arrive(self, offered: float) -> None:
        self._offered.add(offered)
        arrived = self._offered.take(math.floor(self._offered.left))
        self._arrived += arrived
        self._keyed.add(arrived * self._fleet.keyed * (1 - self._fleet.home_share))
        keyed = self._keyed.take(arrived)
        self._claiming += keyed
        self._unminted += arrived - keyed

    def _claim_keys(self) -> None:
        claimed = self._seconds[0].take(self._claiming, _seconds_of_claim(self._figures, self._fleet) / self._life)
        self._claiming -= claimed
        self._unminted += claimed

    def _mint(self, absent: set[int]) -> None:
        weights = {store: 1.0 for store in range(self._fleet.stores) if store not in absent}
        if 0 in weights:
            weights[0] = self._fleet.home_weight
        total = sum(weights.values())
        if not total:
            return  # nobody answers: their callers keep them
        for store, weight in weights.items():
            self._owed[store] += self._unminted * weight / total
        creditors = sorted((store for store, weight in weights.items() if weight), key=lambda one: -self._owed[one])
        for store in creditors:
            self._give(store, min(self._unminted, max(0, math.ceil(self._owed[store]))))
        self._give(creditors[0], self._unminted)  # what stores that are away were owed

    def _give(self, store: int, runs: int) -> None:
        self._owed[store] -= runs
        self._storing[store] += runs
        self._unminted -= runs

    def _ingest(self, store: int) -> None:
        wanted = min(self._storing[store], math.floor(self._servers.left + 1e-9))
        stored = self._seconds[store].take(wanted, 1 / self._figures.ingest_items_per_s / self._life)
        self._servers.take(stored)
        self._storing[store] -= stored
        self._ready[store] += stored

    def _drain(self, store: int) -> None:
        wanted = min(self._ready[store], math.floor(self._workers.left + 1e-9))
        drained = self._seconds[store].take(wanted, 1 / self._figures.drain_runs_per_s / self._life)
        self._workers.take(drained)
        self._ready[store] -= drained
        self._done += drained


def _rest_of_store(figures: Figures, fleet: Fleet) -> float:
    """The part of a store's CPU time that processes take which have nothing to do there."""
    workers = fleet.workers * figures.idle_worker_store_cpu_ms_per_s
    servers = fleet.servers * figures.idle_server_store_cpu_ms_per_s
    return (workers + servers) / (1e3 * fleet.store_cores)


def _seconds_of_claim(figures: Figures, fleet: Fleet) -> float:
    """Of the home store's time, what the claim of a key takes for a run in another store."""
    return figures.key_claim_store_cpu_us / (1e6 * fleet.store_cores)


def _rest_of_process(figures: Figures, fleet: Fleet, idle_ms_per_s: float) -> float:
    """The part of a process's core that being connected to its stores takes."""
    registry = figures.read_client_cpu_us / 1e6 * REGISTRY_READS_PER_S if fleet.stores > 1 else 0.0
    return fleet.stores * idle_ms_per_s / 1e3 + registry


def _count_needed(work: float, left: float, otherwise: int) -> int:
    return max(1, math.ceil(work / left)) if left > 0 else otherwise


def read_figures(path: Path = FIGURES) -> Figures:
    """The figures that were measured."""
    return Figures(**json.loads(path.read_text(encoding="utf-8"))["figures"])


def split_into_cells(stores: int, most: int = MOST_STORES) -> list[int]:
    """How many stores each installation has, where one can't have them all: as few as can be, as equal as can be."""
    cells = math.ceil(stores / most)
    return [stores // cells + (cell < stores % cells) for cell in range(cells)]


def format_table(figures: Figures, fleet: Fleet, stores: Sequence[int], *, cell: int | None = None) -> str:
    """A row for each number of stores, in Markdown: what they carry, with how many processes, and what is full first.

    Processes and connections are those of one installation, the largest. ``cell`` is how many stores one has at most;
    without it as many as ids, and connections, allow.
    """
    most = cell or find_largest_cell(figures, fleet)
    lines = [
        "| Stores | Installations | Workers in each | Servers in each | Connections to each store | Runs/s in all | Full first | Of a worker's core, at rest |",
        "|---:|---:|---:|---:|---:|---:|---|---:|",
    ]
    for count in stores:
        cells = split_into_cells(count, most)
        fleets = [size_fleet(figures, replace(fleet, stores=one)) for one in cells]
        limits = [find_limits(figures, one) for one in fleets]
        worker = next(part for part in limits[0].parts if part.name == WORKER)
        lines.append(
            f"| {count:,} | {len(cells)} | {fleets[0].workers:,} | {fleets[0].servers:,}"
            f" | {count_connections(fleets[0]):,} | {sum(one.runs_per_s for one in limits):,.0f}"
            f" | {limits[0].first} | {worker.fixed:.1%} |"
        )
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--stores", type=int, nargs="*", default=[1, 2, 4, 10, 100, 1000])
    parser.add_argument(
        "--keyed",
        type=float,
        default=0.0,
        help="share of runs that are triggered one by one: their keys are claimed at home",
    )
    parser.add_argument("--home-weight", type=float, default=1.0, help="of new runs, beside 1 of every other store")
    parser.add_argument("--cell", type=int, help="most stores of one installation; default: as many as fit")
    parser.add_argument("--run-seconds", type=float, default=0.0, help="how long the code of a run takes")
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--pool-size", type=int, default=10)
    parser.add_argument("--max-connections", type=int, default=500)
    parser.add_argument("--pooled", action="store_true", help="poolers in transaction mode before the stores")
    options = parser.parse_args()
    figures = read_figures(options.figures)
    fleet = Fleet(
        stores=1,
        workers=1,
        servers=1,
        keyed=options.keyed,
        home_weight=options.home_weight,
        run_seconds=options.run_seconds,
        concurrency=options.concurrency,
        pool_size=options.pool_size,
        max_connections=options.max_connections,
        pooled=options.pooled,
    )
    sys.stdout.write(format_table(figures, fleet, options.stores, cell=options.cell) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
