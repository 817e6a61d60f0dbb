"""One self-contained HTML page: sections of prose, curves as inline SVG, tables and samples of text.

Nothing is fetched and no script runs; the page follows the reader's light or dark setting.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 40


@dataclass(frozen=True)
class Series:
    """One line of a chart: equally many `x` and `y`."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Curve:
    """A line chart. The first series is drawn thin when there are others, as the raw values behind a smooth one."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]


@dataclass(frozen=True)
class Table:
    """A table; numbers are given as text, already rounded as they should be read."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Sample:
    """A prompt and what a model wrote after it."""

    label: str
    prompt: str
    text: str


@dataclass(frozen=True)
class Section:
    """One chapter of the page."""

    title: str
    prose: str
    items: Sequence[Curve | Table | Sample] = ()


def write(path: Path, title: str, lead: str, facts: Table, sections: Sequence[Section]) -> None:
    """Write the page to `path`, whole or not at all."""
    body = "".join(_section(section) for section in sections)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f'<body><main><h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>{_table(facts)}{body}'
        "</main></body></html>\n"
    )
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)


def smooth(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average with the start-up bias removed: `m_t / (1 - weight^t)`."""
    mean, out = 0.0, []
    for count, value in enumerate(values, start=1):
        mean = weight * mean + (1 - weight) * value
        out.append(mean / (1 - weight**count))
    return out


def _section(section: Section) -> str:
    drawn = []
    for item in section.items:
        match item:
            case Curve():
                drawn.append(_curve(item))
            case Table():
                drawn.append(_table(item))
            case Sample():
                drawn.append(_sample(item))
    return (
        f"<section><h2>{html.escape(section.title)}</h2><p>{html.escape(section.prose)}</p>{''.join(drawn)}</section>"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _sample(sample: Sample) -> str:
    prompt, text, label = _shown(sample.prompt), _shown(sample.text), html.escape(sample.label)
    return f"<figure><figcaption>{label}</figcaption><pre><mark>{prompt}</mark>{text}</pre></figure>"


def _shown(text: str) -> str:
    """Text for the page; a model that knows bytes may write control characters, which no page can hold."""
    return html.escape("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text))


def _curve(curve: Curve) -> str:
    points = [(x, y) for series in curve.series for x, y in zip(series.x, series.y, strict=True)]
    if not points:
        raise ValueError(f"the chart {curve.title!r} has no points")
    x_ticks = _ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = _ticks(min(y for _, y in points), max(y for _, y in points))

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(curve.title, quote=True)}">']
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{up(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    parts += [
        f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:g}</text>' for x in x_ticks
    ]
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(curve.x_label)}</text>')
    parts.append(
        f'<text transform="translate(12 {HEIGHT / 2 - 10}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(curve.y_label)}</text>"
    )
    for index, series in enumerate(curve.series):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in zip(series.x, series.y, strict=True))
        raw = " raw" if index == 0 and len(curve.series) > 1 else ""
        last = f"{series.y[-1]:.4g}"
        parts.append(
            f'<polyline class="line s{index}{raw}" points="{path}"><title>{html.escape(series.name)}: {last}</title>'
            "</polyline>"
        )
    legend = "".join(
        f'<span><i class="s{index}"></i>{html.escape(series.name)}</span>' for index, series in enumerate(curve.series)
    )
    title = html.escape(curve.title)
    return (
        f'<figure><figcaption>{title}<span class="legend">{legend}</span></figcaption>{"".join(parts)}</svg></figure>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, four to eight of them."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"a chart needs finite numbers, got {low} to {high}")
    if low == high:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * tick, 12) for tick in range(first, last + 1)]


STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --quiet: #5f6670; --paper: #fff; --panel: #f5f6f8; --rule: #dfe2e7;
  --s0: #2463c5; --s1: #c2540a; --s2: #1d7a4f; --mark: #e3ecfb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --quiet: #9aa3ae; --paper: #15181c; --panel: #1d2126;
  --rule: #333a42; --s0: #7fb0ff; --s1: #ff9d5c; --s2: #6bd3a0; --mark: #26374f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 800px; margin: 0 auto; padding: 40px 20px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 21px; margin: 44px 0 6px; }
.lead { color: var(--quiet); margin: 0 0 20px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; margin: 12px 0; }
th { text-align: left; font-weight: 600; color: var(--quiet); }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th:not(:first-child), td:not(:first-child) { text-align: right; padding: 6px 0 6px 14px; }
figure { margin: 18px 0; padding: 14px 16px; background: var(--panel); border-radius: 8px; }
figcaption { font-size: 14px; font-weight: 600; margin-bottom: 8px; }
.legend { font-weight: 400; color: var(--quiet); float: right; }
.legend span { margin-left: 16px; white-space: nowrap; }
.legend i { display: inline-block; width: 18px; height: 3px; margin-right: 6px; vertical-align: middle; }
.legend i.s0 { background: var(--s0); } .legend i.s1 { background: var(--s1); } .legend i.s2 { background: var(--s2); }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--quiet); }
.grid { stroke: var(--rule); stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); }
.raw { stroke-width: 1; opacity: 0.45; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.5 ui-monospace, monospace; }
mark { background: var(--mark); color: inherit; border-radius: 3px; }
"""
