"""The audit as one HTML file: tables and figures inside, no script, nothing loaded from anywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dither.auditing._recommendation import Recommendation
from dither.auditing._rows import COLUMNS, Row

TABLE = """<table>
<caption>{{ caption }}</caption>
<tr><th>estimator</th><th>error at equal time</th><th>descent at equal time</th>{% for c, meaning in columns.items() %}
<th title="{{ meaning }}">{{ c.replace("_", " ") }}</th>{% endfor %}</tr>
{% for row in overall %}
<tr{% if loop.first and best %} class="best"{% endif %}><td>{{ row.estimator }}</td>
<td>{{ number(row.error) }}</td><td>{{ number(row.worth) }}</td>
{% for c in columns %}<td>{{ number(row[c]) }}</td>{% endfor %}</tr>
{% endfor %}
</table>
"""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
tr.best td { font-weight: 600; background: #f2f7ff; }
figure { margin: 1rem 0; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
details { margin: 1rem 0; } caption, figcaption { text-align: left; color: #555; }
p.recommendation { border-left: 4px solid #3b6fb6; padding: .5rem 1rem; background: #f2f7ff; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% if training %}<figure>{{ training|safe }}</figure>{% endif %}
{% for part in parts %}
{% if part.heading %}<h2>{{ part.heading }}</h2>{% endif %}
<p class="recommendation"><strong>{{ part.recommendation.estimator or "None" }}</strong>: {{ part.recommendation.reason }}.</p>
{% if part.figure %}<figure>{{ part.figure|safe }}</figure>{% endif %}
{{ part.table|safe }}
<details><summary>By parameter</summary>
<table>
<tr><th>parameter</th><th>estimator</th>{% for c in columns %}<th>{{ c.replace("_", " ") }}</th>{% endfor %}</tr>
{% for row in part.parameters %}
<tr><td>{{ row.parameter }}</td><td>{{ row.estimator }}</td>{% for c in columns %}<td>{{ number(row[c]) }}</td>{% endfor %}</tr>
{% endfor %}
</table>
</details>
{% endfor %}
<details><summary>Columns</summary><ul>
<li><b>error at equal time</b>: root mean squared error, as a share of the gradient's norm,
when all get the same time, the median
of their draws', and an optimizer averages ten steps</li>
<li><b>descent at equal time</b>: how far a step along it descends, as a share of a step along the gradient,
each with its best learning rate</li>
{% for name, text in meanings.items() %}<li><b>{{ name.replace("_", " ") }}</b>: {{ text }}</li>{% endfor %}
</ul></details>
{% if about %}<details><summary>How it was made</summary><table>
{% for key, value in about.items() %}<tr><td>{{ key }}</td><td>{{ value }}</td></tr>{% endfor %}
</table></details>{% endif %}
</body>
</html>
"""


def render_html(
    parts: Sequence[tuple[str, Sequence[Row], Recommendation]],
    *,
    title: str = "Gradient audit",
    about: Mapping[str, object] | None = None,
) -> str:
    """One page from audits, each (heading, rows of `AuditReport.to_dicts()`, recommendation).

    Of several audits a figure on top shows what changes with the `step` of their rows. about: a table "How it was
    made". It needs jinja2 (torch brings it). Without matplotlib there are no figures.
    """
    return _render(
        TEMPLATE,
        title=title,
        parts=[_part(number, *part) for number, part in enumerate(parts)],
        training=_training([row for _, rows, _ in parts for row in rows]) if len(parts) > 1 else "",
        columns=list(COLUMNS),
        meanings=COLUMNS,
        number=_number,
        about=about or {},
    )


def render_table(rows: Sequence[Row], recommendation: Recommendation) -> str:
    """The table of estimators alone, best first: a part of the page, and what a notebook shows of a report."""
    overall = {row["estimator"]: row for row in rows if row["parameter"] == "overall"}
    ranked = [{**overall[entry["estimator"]], **entry} for entry in recommendation.ranking]
    caption = f"Best first; all but the first two columns are of one draw; reference: {ranked[0].get('reference', '')}"
    return _render(TABLE, caption=caption, columns=COLUMNS, overall=ranked, best=recommendation.estimator, number=_number)


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment

    return Environment(autoescape=True, trim_blocks=True).from_string(template).render(values)


def _part(number: int, heading: str, rows: Sequence[Row], recommendation: Recommendation) -> dict[str, Any]:
    return {
        "heading": heading,
        "recommendation": recommendation,
        "figure": _figure(rows, f"part{number}-"),
        "table": render_table(rows, recommendation),
        "parameters": [row for row in rows if row["parameter"] != "overall"],
    }


def _figure(rows: Sequence[Row], prefix: str) -> str:
    try:
        from dither import plots
        from dither.plots import audit

        return _inline(plots.svg(audit.draw(rows).figure), prefix)
    except ModuleNotFoundError:
        return ""


def _training(rows: Sequence[Row]) -> str:
    try:
        from dither import plots
        from dither.plots import audit_training

        return _inline(plots.svg(audit_training.draw(rows)), "training-")
    except ModuleNotFoundError:
        return ""


def _inline(svg: str, prefix: str) -> str:
    """The picture from <svg on, with ids of its own: several stand in one page."""
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg[svg.index("<svg") :])
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)


def _number(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
