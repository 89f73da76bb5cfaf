"""Fit the detector that ships, and judge it on what it never saw: python dev.py bench fit_detector

Writes realism_core/evidence/detector.json, and into docs/detection.md the ablation (which statistics hold on
held-out sources and generators, and what the codec alone would give), the nested hold-out of the chosen ones
with intervals, and the calibration. The same numbers every time on one machine. Half an hour the first time
(it trains three small decoders and measures some 2,700 pictures), three minutes from the cache.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks import _candidates as candidates
from benchmarks import _page
from benchmarks._detector_data import EVIDENCE_COLUMNS, Origin, Sample, lossless_folder, origins, samples
from benchmarks._holdout import Pool, calibration, compared, fit_calibrated, hold_out, interval
from realism_core.evidence import statistics
from realism_core.evidence.detector import MIN_RELIABILITY, SHIPPED, evidence_left

# name: (state of the photographs, state of the generated pictures)
PROTOCOLS = {
    "as decoded": ("as_decoded", "as_decoded"),
    "no codec on either": ("clean", "as_decoded"),
    "both WebP q80": ("clean_webp80", "webp80"),
    "WebP q80 on top": ("webp80", "webp80"),
    "any codec": ("clean_codec", "codec"),
    "resized x0.5 to 1.5": ("resized", "resized"),
    "512 px": ("matched", "matched"),
    "512 px, WebP q80": ("matched_webp80", "matched_webp80"),
}
PENALTY = 100.0


def main() -> None:
    found = origins()
    rows = samples(found)
    pool = pool_of(rows)
    parts = [describe(found, rows), ablation(rows, pool.statistics)]
    print("\n\n".join(parts), flush=True)
    odds = hold_out(pool)
    parts.append(verdicts(pool, odds))
    print(parts[-1])
    _page.write("detection.md", "fit", "\n\n".join(parts))
    shown = {str(origin.path) for origin in found if origin.shown}
    ship(pool.take(~np.isin(pool.pictures, list(shown))), odds, pool)


def pool_of(rows: Sequence[Sample]) -> Pool:
    """Return the samples with the detector's statistics."""
    table = torch.stack([row.statistics for row in rows]).nan_to_num(0.0)
    return Pool.of(rows, table, statistics.NAMES, reliability(rows) >= MIN_RELIABILITY)


def reliability(rows: Sequence[Sample]) -> np.ndarray:
    """Return each row's reliability, from its codec and size columns."""
    evidence = torch.stack([row.evidence for row in rows])
    return evidence_left(lambda name: evidence[:, EVIDENCE_COLUMNS.index(name)]).numpy()


def describe(found: list[Origin], rows: list[Sample]) -> str:
    """Return a sentence on what there is."""
    kinds = []
    for label, kind in ((1, "photographs"), (0, "generated")):
        counts = Counter(origin.group for origin in found if origin.label == label)
        parts = ", ".join(f"{group} {count}" for group, count in counts.most_common())
        kinds.append(f"{sum(counts.values())} {kind} ({parts})")
    missing = "" if lossless_folder() else " Without the lossless generated pictures, which are not here."
    return f"{' and '.join(kinds)}, {len(rows)} pictures in all states.{missing}"


def ablation(rows: list[Sample], table: Tensor) -> str:
    """Return the AUC of statistics alone, added and left out, each on held-out sources and generators."""
    tried = torch.stack([row.candidates for row in rows])
    evidence = torch.stack([row.evidence for row in rows]).nan_to_num(0.0)
    sizes = [name in ("short_side", "megapixels") for name in EVIDENCE_COLUMNS]
    kinds = [name.rpartition("_")[2] for name in statistics.NAMES]
    parts = {
        "lattice": [name == "lattice" for name in statistics.NAMES],
        **{
            plane: [
                name.startswith(plane) and kind.isdigit()
                for name, kind in zip(statistics.NAMES, kinds, strict=True)
            ]
            for plane in ("luma", "red", "blue")
        },
        **{kind: [kind == other for other in kinds] for kind in ("block", "peak")},
    }
    groups = {
        group: [name.startswith(group + "_") for name in candidates.NAMES] for group in candidates.GROUPS
    }
    sets = {"the detector's": table}
    sets |= {f"only {part}": table[:, keep] for part, keep in parts.items()}
    sets |= {f"without {part}": table[:, [not k for k in keep]] for part, keep in parts.items()}
    sets |= {f"only {group}": tried[:, keep] for group, keep in groups.items()}
    sets |= {f"with {group}": torch.cat((table, tried[:, keep]), 1) for group, keep in groups.items()}
    sets["codec columns alone"] = evidence[:, [not size for size in sizes]]
    sets["size alone"] = evidence[:, sizes]
    lines = []
    for name, values in sets.items():
        pool = Pool.of(rows, values, [str(number) for number in range(values.shape[1])])
        odds = hold_out(pool, PENALTY)
        aucs = [compared(pool, odds, *sides(pool, protocol)).mean() for protocol in PROTOCOLS]
        lines.append([name, str(values.shape[1]), *(f"{value:.2f}" for value in aucs)])
    return _page.table(["statistics, AUC held out", "number", *PROTOCOLS], lines)


def sides(pool: Pool, protocol: str, keep: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the photographs and of the generated pictures that a protocol compares."""
    return tuple(
        np.flatnonzero((pool.labels == label) & (pool.states == state) & (True if keep is None else keep))
        for label, state in zip((1, 0), PROTOCOLS[protocol], strict=True)
    )


def interval_of(
    pool: Pool, odds: np.ndarray, protocol: str, keep: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Return AUC and its 95 % interval under a protocol, of the rows in keep."""
    real, made = sides(pool, protocol, keep)
    if len(real) < 5 or len(made) < 5:
        return (float("nan"),) * 3
    return interval(compared(pool, odds, real, made))


def verdicts(pool: Pool, odds: np.ndarray) -> str:
    """Return AUC by protocol with and without abstaining, and the calibration."""
    sure = pool.answers
    lines = []
    for name in PROTOCOLS:
        real, made = sides(pool, name)
        whole, part = (interval_of(pool, odds, name, keep) for keep in (None, sure))
        answers = [f"{sure[side].sum()} of {len(side)}" for side in (real, made)]
        lines.append([name, told(whole), told(part), *answers])
    head = ["nested hold-out", "AUC, all", "AUC, where it answers", "answers: photographs", "generated"]
    parts = [_page.table(head, lines)]
    chance, labels = out_of_fold(pool, odds)
    lines = []
    for name, keep in (("all states", np.ones(len(labels), bool)), ("where it answers", sure)):
        error, curve = calibration(chance[keep], labels[keep])
        points = ", ".join(f"{mean:.2f}: {real:.2f} ({count})" for mean, real, count in curve)
        lines.append([name, f"{error:.3f}", points])
    head = [
        "calibration",
        "error",
        "mean p_photo: share of photographs (pictures), ten bins, both sides weighing alike",
    ]
    parts.append(_page.table(head, lines))
    return "\n\n".join(parts)


def out_of_fold(pool: Pool, odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return p_photo of each row, the mean over the detectors that did not see its group, and the labels."""
    return np.nanmean(1 / (1 + np.exp(-odds)), 1), pool.labels


def told(found: tuple[float, float, float]) -> str:
    return "-" if np.isnan(found[0]) else f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"


def ship(fitted: Pool, odds: np.ndarray, pool: Pool) -> None:
    """Fit on everything that the demo and the tests do not show, and write the detector with its card."""
    detector, penalty = fit_calibrated(fitted)
    sure = pool.answers
    card = {
        "made_by": "benchmarks/fit_detector.py",
        "photographs": len(set(fitted.pictures[fitted.labels == 1])),
        "generated": len(
            set(zip(fitted.pictures[fitted.labels == 0], fitted.groups[fitted.labels == 0], strict=True))
        ),
        "generators": fitted.generators,
        "states": sorted(set(fitted.states)),
        "penalty": penalty,
        "held_out_auc": {
            name: [round(value, 3) for value in interval_of(pool, odds, name)] for name in PROTOCOLS
        },
        "held_out_auc_not_abstaining": {
            name: [
                round(value, 3) if value == value else None for value in interval_of(pool, odds, name, sure)
            ]
            for name in PROTOCOLS
        },
        "calibration_error": round(calibration(*(side[sure] for side in out_of_fold(pool, odds)))[0], 3),
        "blind_to": "decoders unlike those fitted on, compression, resizing by free factors, small pictures",
    }
    data = {**detector.to_dict(), "about": card}
    text = json.dumps(data, indent=0).replace("[\n", "[").replace(",\n", ", ").replace("\n]", "]")
    SHIPPED.write_text(text + "\n", encoding="utf-8")
    print(f"\n{SHIPPED.name}: {SHIPPED.stat().st_size} bytes, penalty {penalty:g}")


if __name__ == "__main__":
    main()
