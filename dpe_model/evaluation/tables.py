"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .metrics import METRICS, REGIONS
from .rendered import DRIVERS, MODEL

HEADINGS = {"psnr": "PSNR", "ssim": "SSIM", "l1": "L1"}
DIGITS = {"psnr": 2, "ssim": 4, "l1": 4}


def markdown(report: Mapping[str, Any]) -> str:
    """The tables of an evaluation's report."""
    lines = ["# Evaluation", ""]
    lines += [f"- {key}: {value}" for key, value in report["model"].items()]
    if "rendered" in report:
        lines += ["", *_rendered(report["rendered"])]
    if "leak" in report:
        lines += ["", *_leak(report["leak"])]
    if "clips" in report:
        lines += ["", *_clips(report["clips"])]
    return "\n".join(lines) + "\n"


def _rendered(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## Rendered people against the truth"
    yield ""
    yield (
        f"{report['identities']} held-out people, {report['tuples']} pairs of pose and expression each. *change*: "
        "where the true picture differs from the source; *stay*: the rest, where copying the source is nearly the "
        "truth. PSNR in dB (at most 60), L1 of values in 0..1. The margin is the model's lead over the best baseline, "
        "positive = better."
    )
    for driver in DRIVERS:
        scores = report["scores"][driver]
        for edit in (name for name in scores if name != "self"):
            yield ""
            share = f"{scores[edit]['changed']:.0%} of the picture changes"
            yield f"### {edit.capitalize()} edit, driver: {driver} ({share})"
            yield ""
            yield from _scores(scores[edit])
    yield ""
    yield "### Self-reconstruction (strength 0)"
    yield ""
    own = {f"{role} branch": found for role, found in report["scores"][DRIVERS[0]]["self"].items()}
    yield from _table(["", *HEADINGS.values()], [[name, *_cells(found.get("whole"))] for name, found in own.items()])


def _scores(scores: Mapping[str, Any]) -> Iterator[str]:
    heads = [f"{HEADINGS[m]} {region}" for region in REGIONS for m in METRICS]
    rows = [
        [f"**{name}**" if name == MODEL else name, *(cell for region in REGIONS for cell in _cells(found.get(region)))]
        for name, found in scores["methods"].items()
    ]
    rows.append(["*margin*", *(cell for r in REGIONS for cell in _cells(scores["margin"].get(r), signed=True))])
    yield from _table(["", *heads], rows)


def _cells(found: Mapping[str, float] | None, signed: bool = False) -> list[str]:
    if found is None:
        return ["-"] * len(METRICS)
    return [f"{found[m]:{'+' if signed else ''}.{DIGITS[m]}f}" for m in METRICS]


def _leak(report: Mapping[str, Any]) -> Iterator[str]:
    leak, accuracy = report["leak"], report["accuracy"]
    yield "## Leaks"
    yield ""
    yield (
        "*Leak*: change by the edit that should leave a number alone, as a share of the change by the edit that "
        "should change it; *typical*: the same of medians, which a few misread pictures do not move. Both rest on the "
        "*cases* in which that part of the face lies inside both results; *all* is the leak with the others, too. "
        "*Follows*: share of the asked change that the right edit makes; *strays*: the same of the wrong edit. "
        "*Measurement*: R2 on true pictures, bent and softened like results; its mean error as a share of the mean "
        "change asked for, below which no leak says anything; and what it shows to stray in pictures in which nothing "
        "does. A dash: the right edit changes nothing, so there is no measure."
    )
    yield ""
    shares = ("leak", "typical", "all", "follows", "strays")
    measures = ("r2", "error", "strays")
    heads = ["", *shares, "cases", "measurement R2", "measurement error", "measurement strays"]
    rows = []
    for name, found in leak.items():
        sure = accuracy.get(name, {})
        cells = [_number(found.get(k)) for k in shares]
        cells += [str(found.get("cases", "-")), *(_number(sure.get(k)) for k in measures)]
        rows.append([f"**{name}**" if name not in accuracy else name, *cells])
    yield from _table(heads, rows)


def _clips(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## Real clips"
    yield ""
    yield f"{report['source']} driven by {report['driving']}, {report['frames']} frames."
    if "curves" not in report:
        yield ""
        yield "No judge measured the curves."
        return
    yield ""
    yield (
        "Correlation and mean error of each curve of the result with the driver's and with the source's (degrees; "
        "openings); in brackets the error of its movement alone, after the curves' means are taken off."
    )
    yield ""
    heads = ["edit", "curve", "should", "correlation, driver", "error, driver", "correlation, source", "error, source"]
    rows = []
    for edit, curves in report["curves"].items():
        for curve, found in curves.items():
            cells = [cell for name in ("driver", "source") for cell in _curve_cells(found[name])]
            rows.append([edit, curve, found["should"], *cells])
    yield from _table(heads, rows)


def _curve_cells(found: Mapping[str, Any]) -> list[str]:
    return [_number(found["correlation"]), f"{_number(found['error'])} ({_number(found['movement_error'])})"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
