"""How well generated pictures are told from photographs never seen: python dev.py bench detection

p_photo (nested hold-out of benchmarks/fit_detector.py), the decoder lattice (nothing fitted), raw IRS,
typicality (against the photographs of the other sources), NIQE and BRISQUE, under three protocols: as
decoded, both sides through the same codec, both sides resized. AUC with 95 % bootstrap intervals over
pictures, and the share of generated pictures found where 5 % of the photographs are flagged; by generator
and by source. The peers take seconds a picture, so they rate every fourth. Writes the tables into
docs/detection.md. A quarter of an hour after fit_detector, three minutes from the cache.
"""

from __future__ import annotations

import hashlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks import _page
from benchmarks import _peers as peers
from benchmarks._detector_data import (
    Origin,
    Sample,
    decoder_folder,
    lossless_folder,
    origins,
    samples,
    states,
)
from benchmarks._holdout import Pool, compared, hold_out, interval
from benchmarks.fit_detector import PROTOCOLS, pool_of, sides, told
from devtools.environment import cache_folder
from realism_core.irs.distribution import OFFSETS, StreamingFit
from realism_core.irs.measures import Measures
from realism_core.irs.pentagon import pentagon_area, radii

SHOWN = ("as decoded", "no codec on either", "both WebP q80", "512 px")
FLAGGED = 0.05
RATED = 4
PEERS = {"NIQE": peers.niqe, "BRISQUE": peers.brisque}


def main() -> None:
    found = origins()
    rows = samples(found)
    pool = pool_of(rows)
    sure = pool.answers
    scores = {
        "p_photo, all pictures": hold_out(pool),
        "decoder lattice": spread(pool, -np.array([float(row.statistics[0]) for row in rows])),
        "typicality": typicality(pool, rows),
        "raw IRS": spread(pool, irs(rows)),
    }
    quality = peer_scores(found[::RATED], rows)
    rated = {f"{name}, one picture in {RATED}": values for name, values in quality.items()}
    scores |= {name: spread(pool, -values) for name, values in rated.items()}
    known = {name: ~np.isnan(values) for name, values in rated.items()}
    text = "\n\n".join(
        (overview(pool, scores, known), by_group(pool, scores["p_photo, all pictures"], sure))
    )
    if lossless_folder() is None:
        text = "Without the lossless generated pictures.\n\n" + text
    print(text)
    _page.write("detection.md", "tables", text)


def overview(pool: Pool, scores: dict[str, np.ndarray], known: dict[str, np.ndarray]) -> str:
    """Return the table of AUC and of the share found at 5 % false alarms, by protocol.

    known: for each score that not all rows have, which have it.
    """
    sure = pool.answers
    lines = [
        "| AUC [95 %], found at 5 % flagged | " + " | ".join(SHOWN) + " |",
        "|---|" + "---|" * len(SHOWN),
    ]
    everything = np.ones(len(sure), bool)
    entries = [("p_photo, where it answers", scores["p_photo, all pictures"], sure)]
    entries += [(name, values, known.get(name, everything)) for name, values in scores.items()]
    for name, values, keep in entries:
        cells = []
        for protocol in SHOWN:
            real, made = sides(pool, protocol, keep)
            if len(real) < 5 or len(made) < 5:
                cells.append("answers for none" if keep is sure else "-")
                continue
            cells.append(
                f"{told(interval(compared(pool, values, real, made)))}, {found_at(values, real, made):.0%}"
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    shares = []
    for protocol in SHOWN:
        real, made = sides(pool, protocol)
        shares.append(f"{sure[real].mean():.0%} of {len(real)}, {sure[made].mean():.0%} of {len(made)}")
    lines.append("| p_photo answers for: photographs, generated | " + " | ".join(shares) + " |")
    return "\n".join(lines)


def by_group(pool: Pool, odds: np.ndarray, sure: np.ndarray) -> str:
    """Return the table of p_photo's AUC by generator and by source, on all pictures and where it answers."""
    head = [f"{name}{how}" for name in SHOWN for how in ("", ", answered")]
    lines = ["| held out | pictures | " + " | ".join(head) + " |", "|---|---|" + "---|" * len(head)]
    for kind, groups in (("generator", pool.generators), ("source", pool.sources)):
        for group in groups:
            cells, count = [], 0
            for protocol in SHOWN:
                for keep in (None, sure):
                    real, made = sides(pool, protocol, keep)
                    rows = made if kind == "generator" else real
                    here = pool.groups[rows] == group
                    count = max(count, int(here.sum()))
                    if here.sum() < 2 or min(len(real), len(made)) < 5:
                        cells.append("-")
                        continue
                    above = compared(pool, odds, real, made)
                    part = above[:, here] if kind == "generator" else above[here]
                    cells.append(f"{part.mean():.2f} ({here.sum()})")
            lines.append(f"| {kind} {group} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def found_at(values: np.ndarray, real: np.ndarray, made: np.ndarray) -> float:
    """Return the share of generated pictures below what 5 % of the photographs fall below."""
    mean = np.nanmean(values, 1)
    return float((mean[made] < np.quantile(mean[real], FLAGGED)).mean())


def spread(pool: Pool, values: np.ndarray) -> np.ndarray:
    """Return one number a row as `hold_out` gives them, the same whatever was held out."""
    columns = max(len(pool.sources), len(pool.generators))
    return np.repeat(np.nan_to_num(values, nan=np.nanmin(values))[:, None], columns, 1)


def _features(rows: list[Sample]) -> torch.Tensor:
    return torch.stack([row.candidates[: len(Measures._fields)] for row in rows])


def irs(rows: list[Sample]) -> np.ndarray:
    """Return the raw reference IRS of each row."""
    table = _features(rows)
    offsets = table.new_tensor(OFFSETS)
    measures = torch.cat((table[:, :4].exp() - offsets, table[:, 4:]), 1)
    return pentagon_area(radii(measures, "reference"), "reference").numpy()


def typicality(pool: Pool, rows: list[Sample]) -> np.ndarray:
    """Return each row's typicality against the photographs, as decoded, of the sources that are not its
    own.
    """
    table = _features(rows)
    values = np.full((len(rows), max(len(pool.sources), len(pool.generators))), np.nan)
    plain = (pool.labels == 1) & (pool.states == "as_decoded")
    for column, source in enumerate(pool.sources):
        fit = StreamingFit(table.shape[1])
        fit.update(table[torch.from_numpy(plain & (pool.groups != source))])
        judged = fit.distribution().typicality(table).numpy()
        made = pool.labels == 0
        values[made, column] = judged[made]
        own = pool.groups == source
        values[own] = judged[own, None]
    return values


def peer_scores(found: list[Origin], rows: list[Sample]) -> dict[str, np.ndarray]:
    """Return NIQE and BRISQUE of the states that the tables show, of these pictures, else NaN; cached."""
    wanted = {state for protocol in SHOWN for state in PROTOCOLS[protocol]}
    code = Path(peers.__file__).read_bytes() + Path(sys.modules[states.__module__].__file__).read_bytes()
    folder = cache_folder() / "peer-scores" / hashlib.sha256(code).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    peers.folder()
    decoders = decoder_folder(found)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as workers:
        jobs = [(origin, folder, decoders, wanted) for origin in found]
        measured = {}
        for number, (origin, values) in enumerate(zip(found, workers.map(_peers_of, jobs), strict=True), 1):
            measured[origin] = values
            if number % 20 == 0:
                print(
                    f"\r{number} of {len(found)} pictures rated by the peers",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
    print(file=sys.stderr)
    return {
        name: np.array([measured.get(row.origin, {}).get(row.state, {}).get(name, np.nan) for row in rows])
        for name in PEERS
    }


def _peers_of(job: tuple[Origin, Path, Path | None, set[str]]) -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    origin, folder, decoders, wanted = job
    key = hashlib.sha256(origin.path.read_bytes() + repr(origin[1:]).encode()).hexdigest()[:24]
    file = folder / f"{key}.pt"
    if file.is_file():
        return torch.load(file, weights_only=True)
    values = {
        state: {name: rate(picture[0].numpy()) for name, rate in PEERS.items()}
        for state, picture in states(origin, decoders)
        if state in wanted
    }
    torch.save(values, file)
    return values


if __name__ == "__main__":
    main()
