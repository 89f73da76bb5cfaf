"""The report of a score table: numbers, and what they say in plain words."""

from __future__ import annotations

from ..irs import Measures
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
CAVEAT = (
    "IRS grows with sharpness and grain: more is not more real. Typicality says how unlike the profile's "
    "photographs a picture is, in either direction; it is no detector of generated pictures."
)


def report(table: ScoreTable) -> dict:
    """Return a JSON-ready report of `score_table` scores: each picture's numbers and notes in plain words."""
    pictures = []
    for index, row in enumerate(table.rows()):
        pictures.append(
            {"index": index, **row, "notes": _notes(row, table.about.get("definition", "reference"))}
        )
    return {**table.about, "reading": CAVEAT, "pictures": pictures}


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
    return notes
