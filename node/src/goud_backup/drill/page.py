"""The page of the last drill: one file that needs nothing else, with the drills before it as a small plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#667085;--line:#d9dee7;--back:#fff;--good:#12805c;--bad:#c0342b}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf3;--soft:#98a2b3;--line:#344054;--back:#131820;--good:#3ccb95;
--bad:#ff7a70}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:46rem;margin:3rem auto;
padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.05rem;margin:2.2rem 0 .4rem}
.passed{color:var(--good)}.failed{color:var(--bad)}.soft{color:var(--soft)}
.cards{display:flex;flex-wrap:wrap;gap:1rem;margin:1.5rem 0}
.card{flex:1 1 9rem;border:1px solid var(--line);border-radius:.6rem;padding:.7rem .9rem}
.card b{display:block;font-size:1.35rem}
table{border-collapse:collapse;width:100%}td{border-top:1px solid var(--line);padding:.35rem .5rem .35rem 0;
vertical-align:top;overflow-wrap:anywhere}td:first-child{color:var(--soft);width:11rem}
svg{width:100%;height:auto}polyline{fill:none;stroke:var(--soft);stroke-width:1.5}
svg text{fill:var(--soft);font-size:11px}circle.passed{fill:var(--good)}circle.failed{fill:var(--bad)}
line{stroke:var(--line)}
"""
_WIDTH, _HEIGHT, _EDGE = 720, 130, 12


def html(report: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """The whole page."""
    verdict = str(report["verdict"])
    title = f"Restore drill: {verdict}"
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width"><style>',
        _STYLE,
        f'</style><h1>Restore drill: <span class="{escape(verdict)}">{escape(verdict)}</span></h1>',
        f'<p class="soft">{escape(str(report["started"]))} on {escape(str(report["drilled_on"]))}</p>',
        *(f'<p class="failed">{escape(problem)}</p>' for problem in report["problems"]),
        _cards(report),
        _table(report),
        "<h2>Seconds to recover, the last drills</h2>",
        _plot(history, ("recovery_time", "total")),
        "<h2>Age of the newest restored block, the last drills</h2>",
        _plot(history, ("recovery_point", "age_seconds")),
        "</html>\n",
    ]
    return "\n".join(parts)


def _cards(report: Mapping[str, Any]) -> str:
    figures = [
        ("to recover", seconds(_number(report, ("recovery_time", "total")))),
        ("age of the newest block", seconds(_number(report, ("recovery_point", "age_seconds")))),
        ("age of the backup", seconds(_number(report, ("recovery_point", "backup_age_seconds")))),
        ("block", "-" if report["height"] is None else f"{report['height']:,}"),
    ]
    cards = "".join(f'<div class="card"><b>{escape(value)}</b>{name}</div>' for name, value in figures)
    return f'<div class="cards">{cards}</div>'


def _table(report: Mapping[str, Any]) -> str:
    backup = report["backup"] or {}
    phases = {name: value for name, value in report["recovery_time"].items() if name != "total"}
    rows = [
        ("repository", report["repository"]),
        ("chain", report["chain"]),
        ("backup", backup.get("id")),
        ("made", backup.get("created")),
        ("made from", backup.get("node")),
        ("how", report["how"]),
        ("bytes fetched", None if report["bytes"] is None else f"{report['bytes']:,}"),
        ("tip", report["tip_hash"]),
        *((f"block {block['height']} as in", block["said_by"]) for block in report["compared_with"]),
        *((name, seconds(value)) for name, value in phases.items()),
    ]
    cells = (f"<tr><td>{escape(str(name))}<td>{escape(str(value or '-'))}" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def _plot(history: Sequence[Mapping[str, Any]], where: tuple[str, str]) -> str:
    """Every drill is a point; one that failed before it knew the figure stands on the ground."""
    values = [_number(report, where) or 0.0 for report in history]
    top = max([*values, 1e-9])
    step = (_WIDTH - 2 * _EDGE) / max(1, len(values) - 1)
    points = [(_EDGE + step * at, _HEIGHT - _EDGE - value / top * (_HEIGHT - 3 * _EDGE)) for at, value in
              enumerate(values)]  # fmt: skip
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle class="{escape(str(report.get("verdict")))}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
        f"<title>{escape(str(report.get('started')))}: {seconds(value)}, {escape(str(report.get('verdict')))}"
        "</title></circle>"
        for (x, y), report, value in zip(points, history, values, strict=True)
    )
    ground = _HEIGHT - _EDGE
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><line x1="0" y1="{ground}" x2="{_WIDTH}" y2="{ground}"/>'
        f'<text x="0" y="11">{escape(seconds(max(values, default=None)))}</text><polyline points="{line}"/>{dots}</svg>'
    )


def _number(report: Mapping[str, Any], where: tuple[str, str]) -> float | None:
    section = report.get(where[0])
    value = section.get(where[1]) if isinstance(section, dict) else None
    return float(value) if isinstance(value, int | float) else None


def seconds(value: float | None) -> str:
    """A duration as people say it."""
    if value is None:
        return "-"
    if value < 120:
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
