"""The tables of `edgenas bench kernels`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from nas.bench.engines import PEERS
from nas.bench.layers import LAYERS, geometric_mean

if TYPE_CHECKING:
    from nas.bench.kernels import Bench, Row

LARGE_MACS = 50_000_000  # of layers whose threads should pay
_KNOWN = {peer.name: peer for peer in PEERS}
_LAYER = {layer.name: layer for layer in LAYERS}


def text(bench: Bench) -> str:
    about = bench.about
    peers = ", ".join(_described(peer.name) for peer in bench.peers) or "none"
    lines = [f"{about['cpu']}, {about['isa']}, {about['threads']} thread(s), median of {about['rounds']} alternating batches, commit "
             f"{about['commit'] or 'unknown'}", f"peers: {peers}"]  # fmt: skip
    lines += [f"left out: {name}: {why}" for name, why in bench.left_out.items()]
    chosen = [row for row in bench.rows if row.chosen]
    threads = _threads(chosen, about["threads"]) if about["threads"] > 1 else []
    return "\n".join([*lines, "", *_layers(chosen), "", *_summary(chosen), "", *threads, *_variants(bench.rows)])


def _described(name: str) -> str:
    peer = _KNOWN[name]
    return f"{name} {peer.version}" + (f" ({peer.note})" if peer.note else "")


def _grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, key) for key in keys), []).append(row)
    return found


def fastest(rows: Iterable[Row], precision: str = "int8", winograd: bool = True) -> Row | None:
    """The row of the fastest peer at a precision, among rows that differ in the peer alone."""
    fit = [row for row in rows if row.peer and _KNOWN[row.peer].precision == precision and (winograd or not _KNOWN[row.peer].winograd)]
    return min(fit, key=lambda row: row.peer_us, default=None)


def _layers(rows: list[Row]) -> list[str]:
    """GMAC/s of ours and ratio to the layer's fastest int8 peer, a line per layer."""
    bits = list(dict.fromkeys(row.bits for row in rows))
    lines = [f"{'layer':21}{'fastest int8 peer':>25}  " + "".join(f"{name:>13}" for name in bits) + "    GMAC/s (times the peer's)"]
    for (name,), of_layer in _grouped(rows, "layer").items():
        best = fastest(of_layer)
        rate = _LAYER[name].macs / best.peer_us / 1e3 if best else 0.0
        line = f"{name:4}{_LAYER[name].shape:17}{f'{best.peer} {rate:.0f}' if best else '-':>25}  "
        for each in bits:
            row = next((row for row in of_layer if row.bits == each), None)
            mark = "" if row is None or row.exact else "!"
            ratio = "" if best is None or row is None else f" ({best.peer_us / row.us:.2f})"
            line += f"{f'{mark}{row.gmacs:.0f}{ratio}' if row else '-':>13}"
        lines.append(line)
    return lines


def _summary(rows: list[Row]) -> list[str]:
    """Geometric means over the layers: GMAC/s, and ratios to the fastest int8 peer of each layer, to the fastest fp32 and to each peer."""
    peers = list(dict.fromkeys(row.peer for row in rows if row.peer))
    wide = {name: max(len(name) + 2, 9) for name in peers}
    lines = [f"{'bits':6}{'GMAC/s':>8}{'best int8':>11}{'worst layer':>16}{'no Winograd':>13}{'best fp32':>11}"
             + "".join(f"{name:>{wide[name]}}" for name in peers) + "   exact"]
    for (bits,), same in _grouped(rows, "bits").items():
        layers = _grouped(same, "layer")
        ratios = {key[0]: _ratio(group) for key, group in layers.items()}
        known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        worst = min(known, key=lambda name: known[name], default="")
        plain, fp32 = ([_ratio(group, *how) for group in layers.values()] for how in (("int8", False), ("fp32", True)))
        line = f"{bits:6}{geometric_mean([group[0].gmacs for group in layers.values()]):8.0f}{_mean(known.values()):>11}"
        line += f"{f'{worst} {known[worst]:.2f}' if worst else '-':>16}{_mean(plain):>13}{_mean(fp32):>11}"
        line += "".join(f"{_mean([row.ratio for row in same if row.peer == name]):>{wide[name]}}" for name in peers)
        lines.append(line + ("   yes" if all(row.exact for row in same) else "   NO"))
    return lines


def _threads(rows: list[Row], threads: int) -> list[str]:
    """Speed-ups over one thread on the large layers: geometric mean, the least, and what separate networks reach side by side."""
    large = [row for row in rows if _LAYER[row.layer].macs > LARGE_MACS]
    lines = [f"{threads} threads over one, layers above {LARGE_MACS // 10**6} MMAC",
             f"{'bits':6}{'mean':>8}{'least':>11}{'side by side':>14}"]  # fmt: skip
    for (bits,), same in _grouped(large, "bits").items():
        least = min(same, key=lambda row: row.speedup)
        lines.append(f"{bits:6}{_mean([row.speedup for row in same]):>8}{f'{least.layer} {least.speedup:.2f}':>11}"
                     f"{_mean([row.side_by_side for row in same]):>14}")  # fmt: skip
    return [*lines, ""]


def _ratio(rows: list[Row], precision: str = "int8", winograd: bool = True) -> float | None:
    best = fastest(rows, precision, winograd)
    return None if best is None else best.ratio


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{geometric_mean(known):.2f}" if known else "-"


def _variants(rows: Iterable[Row]) -> list[str]:
    """Every variant beside the one that the engine chooses: geometric mean over the layers that it runs."""
    lines = [f"{'bits':6}{'variant':22}{'layers':>7}{'GMAC/s':>8}{'chosen on':>11}"]
    for (bits, variant), same in _grouped(rows, "bits", "variant").items():
        layers: Mapping[tuple[str, ...], list[Row]] = _grouped(same, "layer")
        rate = geometric_mean([group[0].gmacs for group in layers.values()])
        lines.append(f"{bits:6}{variant:22}{len(layers):7}{rate:8.0f}{sum(group[0].chosen for group in layers.values()):11}")
    return lines
