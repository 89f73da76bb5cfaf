"""The report of a score table: the verdict and its reasons first, then all numbers, in plain words."""

from __future__ import annotations

from ..irs import Measures
from .detector import OWN_RAMPS, PARTS, RAMPS
from .table import ScoreTable

# what a low and a high radius look like; energy and variance (and the paper's spectrum) enter inverted
_WORDS = {
    "canny_edge_density": (
        "few hard edges (soft, blurred or empty)", "many hard edges (busy, grainy or over-sharpened)"
    ),
    "glcm_contrast": ("neighbouring pixels differ little (soft or denoised)",
                      "neighbouring pixels differ much (grain, noise or sharpening)"),
    "glcm_energy": ("large even areas", "hardly any even area (texture or noise everywhere)"),
    "blur_variance": ("strong spread of tones", "narrow spread of tones (flat or low-contrast light)"),
    "mean_spectrum": ("weak fine detail", "strong fine detail"),
}
_PAPER_WORDS = {
    **_WORDS,
    "blur_variance": ("strong local detail", "weak local detail (blurred or denoised)"),
    "mean_spectrum": ("strong spectrum", "weak spectrum (little detail)"),
}
_TAIL = 0.05
_TRACES = {
    "luma": "periodic trace of 8, 4 or 2 pixels in the brightness",
    "colour": "periodic trace of 8, 4 or 2 pixels in the colour differences",
    "block": "how far the trace piles up at block borders, as a codec's does",
    "periods": "trace of another period, as resizing a decoded picture leaves it",
}
_LOST = {
    "jpeg_quality": "compressed as JPEG at quality about {:.0f}",
    "video_levels": "its tones lie on the steps of WebP or video (a share of {:.2f})",
    "resample_peak": "enlarged after it was made (trace {:.1f})",
    "spectral_cutoff": "blurred or enlarged: its detail ends at {:.0%} of the spectrum",
    "noise_floor": "grain covers its finest detail (sigma {:.1f} levels)",
    "short_side": "its short side is only {:.0f} pixels",
    "flat_share": "{:.0%} of it is without any variation",
}
_VERDICTS = {1.0: "photograph", 0.0: "decoder"}
READING = (
    "verdict: 'decoder' = the finest detail carries the trace of an image decoder; 'photograph' = it carries "
    "none, though it could; 'unknown' = the picture cannot show it, or it is undecided. It is evidence, not "
    "proof, and no measure of beauty. IRS grows with sharpness and grain: more is not more real. Typicality "
    "says how unlike the profile's photographs a picture is, in either direction; it is no detector of "
    "generated pictures."
)


def report(table: ScoreTable) -> dict:
    """Return a JSON-ready report of `score_table` scores: verdict, reasons, notes and numbers by picture."""
    pictures = []
    for index, row in enumerate(table.rows()):
        lead = {}
        if "verdict" in row:
            lead = {
                "verdict": verdict_of(row),
                "reliability": row.get("reliability"),
                "reasons": reasons(row, table.about.get("detector", "shipped") != "shipped"),
            }
        notes = _notes(row, table.about.get("definition", "reference"))
        numbers = {name: value for name, value in row.items() if name not in lead}
        pictures.append({"index": index, **lead, "notes": notes, **numbers})
    return {"pictures": pictures, "reading": READING, **table.about}


def verdict_of(row: dict[str, float | None]) -> str:
    """Return the verdict of a row of `score_table` as a word: photograph, decoder or unknown."""
    return _VERDICTS.get(row["verdict"], "unknown")


def reasons(row: dict[str, float | None], own_detector: bool = False) -> list[str]:
    """Return why a row of `score_table` has its verdict, the weightiest first.

    own_detector: p_photo is by the profile's detector. Where p_photo applies: what its traces add to the log
    odds. Where not: what took the evidence, and how much.
    """
    lost = [
        (share, f"{_LOST[name].format(row[name])}: {1 - share:.0%} of the evidence is lost")
        for name, nothing, everything in (OWN_RAMPS if own_detector else RAMPS)
        if row.get(name) is not None
        and (share := min(1.0, max(0.0, (row[name] - nothing) / (everything - nothing)))) < 1
    ]
    lost = [text for _, text in sorted(lost)]
    if "p_photo" not in row:
        return lost
    if row["p_photo"] is None:
        return lost or ["too small, too flat or without colour: it cannot hold the traces"]
    parts = [(row[f"odds_{part}"], _TRACES[part]) for part in PARTS if row.get(f"odds_{part}") is not None]
    parts.sort(key=lambda part: -abs(part[0]))
    found = [f"{text}: speaks {_side(odds)} ({odds:+.1f})" for odds, text in parts if abs(odds) >= 0.1]
    return found + lost


def _side(odds: float) -> str:
    return "against a decoder" if odds > 0 else "for a decoder"


def _notes(row: dict, definition: str) -> list[str]:
    notes = []
    if "irs" in row and row["irs"] is None:
        if row.get("mean_spectrum") is None:
            notes.append(
                "colourless: its three channels are equal, so the reference spectrum and the IRS do not "
                "apply; definition 'paper' scores grey pictures"
            )
        if row.get("blur_variance") == 0:
            notes.append("flat: no tone varies, so the IRS does not apply")
    words = _WORDS if definition == "reference" else _PAPER_WORDS
    tails = []
    for name in Measures._fields:
        rank = row.get(f"percentile_{name}")
        if rank is not None and min(rank, 1 - rank) < _TAIL:
            side = int(rank > 0.5)
            share = max(rank, 1 - rank)
            tails.append((share, f"{words[name][side]}: further out than {share:.0%} of the profile"))
    notes += [text for _, text in sorted(tails, key=lambda tail: -tail[0])]
    typicality = row.get("typicality")
    if typicality is not None:
        verdict = "unlike" if typicality < _TAIL else "within the range of"
        notes.insert(0, f"{verdict} the profile's photographs (typicality {typicality:.3f})")
    if (row.get("border_share") or 0) > 0.02:
        notes.append(f"{row['border_share']:.0%} of it is an even border: crop it to score what is inside")
    return notes
