"""`edgenas bench kernels`: our convolutions at every bit-width beside every int8 and fp32 engine that is installed.

All contenders of a layer run the same graph (nas.bench.layers.Repeated) in one process and take turns; a batch lasts BATCH_S or one
run, and the figure is the median of ROUNDS batches or more, without those in which the system gave the CPU to another process.
Packing of activations and requantization count on every side.  With several threads each of our rows is timed with one, too, and so are
as many separate networks of one thread at the same time: what the machine gives, where two of its CPUs may be one core.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nas.bench.engines import PEERS, BenchError, Peer, edgenas
from nas.bench.layers import LAYERS, Layer, Repeated, repeated
from nas.bench.process import limit, settled, wider_than_avx2
from nas.bench.timing import ROUNDS, Timed, alternate
from nas.progress import Progress, Silent

START_RUNS = 8  # times the runs of a batch, beside which the start of a thread does not count


@dataclass(frozen=True)
class Row:
    """One variant of ours and one peer on one layer.  us and peer_us are of one convolution; ratio is peer_us / us.

    speedup is over one thread; side_by_side is that of separate networks, one for each thread, taken together.
    """

    layer: str
    bits: str
    isa: str
    variant: str
    chosen: bool
    us: float
    gmacs: float
    peer: str
    peer_us: float
    ratio: float
    exact: bool
    speedup: float = 1.0
    side_by_side: float = 1.0


@dataclass(frozen=True)
class Bench:
    rows: tuple[Row, ...]
    about: dict[str, Any]
    peers: tuple[Peer, ...]
    left_out: dict[str, str]                            # peer -> why it is not in the table

    def json(self) -> dict[str, Any]:
        return {**self.about, "peers": {p.name: p.version for p in self.peers}, "left_out": self.left_out,
                "rows": [asdict(row) for row in self.rows]}  # fmt: skip

    def text(self) -> str:
        from nas.bench.kernels_text import text

        return text(self)


def run(layers: Sequence[str] = (), bits: Sequence[str] = (), isa: str = "", peers: Sequence[str] = (), threads: int = 1,
        seconds: float = 0.1, progress: Progress | None = None) -> Bench:  # fmt: skip
    """seconds: of each contender on each layer.  Empty names are all of them; the peer 'none' is no peer."""
    chosen_layers = _named("layer", LAYERS, layers)
    for name in bits:
        if name not in edgenas.BITS:
            raise BenchError(f"'{name}' is no bit-width to measure; choose from {', '.join(edgenas.BITS)}")
    chosen_peers, left_out = _present(peers, isa)
    limit(isa)
    rows: list[Row] = []
    with settled(threads), (progress or Silent()).task("layers", len(chosen_layers)) as task:
        for layer in chosen_layers:
            rows += _layer(layer, bits or edgenas.BITS, isa, chosen_peers, left_out, threads, seconds)
            task.advance(1, layer.name)
    return Bench(tuple(rows), _about(isa, threads, seconds), tuple(chosen_peers), left_out)


def _named(kind: str, known: Sequence[Any], names: Sequence[str]) -> list[Any]:
    by_name = {item.name: item for item in known}
    for name in names:
        if name not in by_name:
            raise BenchError(f"'{name}' is no {kind} to measure; choose from {', '.join(by_name)}")
    return [by_name[name] for name in names] or list(known)


def _present(names: Sequence[str], isa: str) -> tuple[list[Peer], dict[str, str]]:
    """Those of the peers that can be compared.  One that is named is taken at its word: its library may have been held back elsewhere."""
    wanted, left_out = [] if list(names) == ["none"] else _named("peer", PEERS, names), {}
    for peer in wanted:
        if not peer.version:
            left_out[peer.name] = f"{peer.package} is not installed (pip install 'edgenas[peers]')"
        elif isa == "avx2" and wider_than_avx2() and not peer.avx2 and not names:
            left_out[peer.name] = "cannot be held to AVX2 on this CPU"
    return [peer for peer in wanted if peer.name not in left_out], left_out


def _about(isa: str, threads: int, seconds: float) -> dict[str, Any]:
    from nas.provenance import commit, cpu_name
    from nas.runtime.executor import isa as in_use

    return {"cpu": cpu_name(), "isa": isa or in_use(), "threads": threads, "rounds": ROUNDS, "seconds": seconds, "commit": commit()}


def _layer(layer: Layer, bits: Sequence[str], isa: str, peers: Sequence[Peer], left_out: dict[str, str], threads: int,
           seconds: float) -> list[Row]:  # fmt: skip
    graph = repeated(layer)
    ours = [item for name in bits for item in edgenas.contenders(graph, name, threads)]
    theirs = {peer.name: made for peer in peers if (made := _peer(peer, graph, threads, left_out)) is not None}
    with ThreadPoolExecutor(threads) as pool:
        alone, beside = _on_one_thread(ours, threads, pool)
        samples = alternate([*(item.time for item in ours), *theirs.values(), *alone, *beside], seconds)
    us = iter([float(np.median(kept)) / graph.copies for kept in samples])
    our_us, their_us, alone_us, beside_us = ([next(us) for _ in group] for group in (ours, theirs, alone, beside))
    rows = []
    for k, (item, one) in enumerate(zip(ours, our_us)):
        gains = (alone_us[k] / one, threads * alone_us[k] / beside_us[k]) if alone else (1.0, 1.0)
        for name, other in dict(zip(theirs, their_us)).items() or (("", float("nan")),):
            rows.append(Row(layer.name, item.bits, isa, item.variant, item.chosen, one, layer.macs / one / 1e3, name, other, other / one,
                            item.exact, *gains))  # fmt: skip
    return rows


def _on_one_thread(ours: Sequence[edgenas.Ours], threads: int, pool: Executor) -> tuple[list[Timed], list[Timed]]:
    """Each of ours on one thread, and `threads` of such at the same time; nothing where ours have one thread anyhow."""
    copies = [[item.on_one_thread() for _ in range(threads)] for item in ours] if threads > 1 else []

    def at_once(same: list[edgenas.Ours]) -> Timed:
        def timed(runs: int) -> float:
            runs *= START_RUNS
            start = time.perf_counter()
            list(pool.map(lambda one: one.time(runs), same))
            return (time.perf_counter() - start) * 1e6 / runs

        return timed

    return [same[0].time for same in copies], [at_once(same) for same in copies]


def _peer(peer: Peer, graph: Repeated, threads: int, left_out: dict[str, str]) -> Timed | None:
    """None, with the reason kept, where a peer fails on a layer."""
    try:
        call = peer.layer(graph, threads)
        call()
    except Exception as error:                          # whatever a foreign library raises
        left_out[f"{peer.name} on {graph.layer.name}"] = f"{type(error).__name__}: {error}".splitlines()[0]
        return None

    def timed(runs: int) -> float:
        start = time.perf_counter()
        for _ in range(runs):
            call()
        return (time.perf_counter() - start) * 1e6 / runs

    return timed
