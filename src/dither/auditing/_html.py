"""The audit as one HTML file: tables and figures inside, no script, nothing loaded from anywhere."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from dither.auditing._recommendation import Recommendation

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
th:first-child, td:first-child { text-align: left; }
tr.best td { font-weight: 600; background: #f2f7ff; }
figure { margin: 1rem 0; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
details { margin: 1rem 0; } caption, figcaption { text-align: left; color: #555; }
p.answer { border-left: 4px solid #3b6fb6; padding: .5rem 1rem; background: #f2f7ff; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for part in parts %}
{% if part.heading %}<h2>{{ part.heading }}</h2>{% endif %}
<p class="answer"><strong>{{ part.recommendation.estimator }}</strong>: {{ part.recommendation.reason }}.</p>
<table>
<caption>Error at equal time: root mean squared error as a share of the gradient's norm</caption>
<tr><th>estimator</th><th>error</th></tr>
{% for row in part.recommendation.ranking %}
<tr{% if loop.first %} class="best"{% endif %}><td>{{ row.estimator }}</td><td>{{ "%.3g"|format(row.error) }}</td></tr>
{% endfor %}
</table>
{% if part.figure %}<figure>{{ part.figure|safe }}</figure>{% endif %}
<table>
<caption>{{ part.caption }}</caption>
<tr><th>estimator</th>{% for c in columns %}<th>{{ c.replace("_", " ") }}</th>{% endfor %}</tr>
{% for row in part.overall %}
<tr{% if row.estimator == part.recommendation.estimator %} class="best"{% endif %}><td>{{ row.estimator }}</td>
{% for c in columns %}<td>{{ number(row[c]) }}</td>{% endfor %}</tr>
{% endfor %}
</table>
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
{% for name, text in meanings.items() %}<li><b>{{ name.replace("_", " ") }}</b>: {{ text }}</li>{% endfor %}
</ul></details>
{% if about %}<details><summary>How it was made</summary><table>
{% for key, value in about.items() %}<tr><td>{{ key }}</td><td>{{ value }}</td></tr>{% endfor %}
</table></details>{% endif %}
</body>
</html>
"""


def render(
    parts: Sequence[tuple[str, Sequence[Mapping[str, Any]], Recommendation]],
    meanings: Mapping[str, str],
    *,
    title: str = "Gradient audit",
    about: Mapping[str, Any] | None = None,
) -> str:
    """One page from audits, each (heading, rows of `AuditReport.to_dicts()`, recommendation). Needs jinja2 (torch brings it);
    figures are left out without matplotlib."""
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    return page.render(
        title=title,
        parts=[_part(*part) for part in parts],
        columns=list(meanings),
        meanings=meanings,
        number=_number,
        about=about or {},
    )


def _part(heading: str, rows: Sequence[Mapping[str, Any]], recommendation: Recommendation) -> dict[str, Any]:
    overall = [row for row in rows if row["parameter"] == "overall"]
    return {
        "heading": heading,
        "recommendation": recommendation,
        "figure": _figure(rows),
        "overall": overall,
        "parameters": [row for row in rows if row["parameter"] != "overall"],
        "caption": f"Of one draw; reference: {overall[0].get('reference', '')}",
    }


def _figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """The picture as SVG text, from <svg on."""
    try:
        from dither.plots import audit

        axes = audit.draw(rows)
    except ModuleNotFoundError:
        return ""
    file = io.StringIO()
    axes.figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
