"""The page of a report: one HTML file."""

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import Any

from keras_sam.analysis.reporting.sections import SECTIONS, NotMeasured, Section

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: #1d2330; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 32px 24px 48px; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.15rem; margin: 0 0 12px; }
p { margin: 0; }
section { background: #fff; border: 1px solid #e1e4ea; border-radius: 10px; padding: 20px; margin-top: 20px; }
.quiet, small, figcaption { color: #5b6475; }
small { display: block; font-size: .82rem; line-height: 1.35; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 7px 8px; border-top: 1px solid #eceef2; }
th:first-child { font-weight: 500; width: 19em; min-width: 8.2em; }
td { overflow-wrap: anywhere; min-width: 5.4em; }
thead th, thead th:first-child { border-top: 0; font-weight: 700; }
tr.group th { background: #f4f5f7; padding: 4px 8px; font-size: .85rem; font-weight: 700; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); gap: 12px; }
.pictures img { max-width: 100%; height: auto; }
figure { margin: 0; }
figcaption { font-size: .9rem; margin-top: 8px; }
.columns + .wide { margin-top: 16px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 0 32px; }
@media (max-width: 600px) { main { padding: 20px 10px 32px; } section { padding: 14px 8px; } }
"""


def page(figures: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The HTML for what `Report.to_dict` gives, with pictures of the results."""
    about, models = figures["report"], figures["models"]
    title = escape(about["title"])
    pictures = "".join(_pictures(section, results) for section in SECTIONS if section.draw is not None)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="quiet">{escape(_listed(list(models)))} on {shown(about["samples"])} samples, measured by keras_sam on \
{escape(about["date"])}</p>
<section><h2>Figures</h2>{_figures(models)}</section>
{pictures}<section><h2>How it was measured</h2>
<div class="columns">{_table({"settings": figures["settings"]})}{_table({"versions": figures["versions"]})}</div>
{_costs(models)}</section>
</main>
</body>
</html>
"""


def shown(value: Any) -> str:
    """A figure as the page has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
    return f"{value:,}" if isinstance(value, int) else str(value)


def _figures(models: Mapping[str, Any]) -> str:
    rows = [_row("", list(models), head=True)]
    groups = [("model", {}), *((section.name, section.about) for section in SECTIONS)]
    for group, about in groups:
        keys = list(dict.fromkeys(key for model in models.values() for key in model[group]))
        if keys:
            rows.append(f'<tr class="group"><th colspan="{len(models) + 1}">{escape(group)}</th></tr>')
        for key in keys:
            cells = [shown(model[group][key]) if key in model[group] else "\N{EN DASH}" for model in models.values()]
            rows.append(_row(key, cells, about.get(key, about.get("", ""))))
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _costs(models: Mapping[str, Any]) -> str:
    rows = [_row("time, and gradient passes over the data", list(models), head=True)]
    for section in SECTIONS:
        costs = [model["cost"][section.name] for model in models.values()]
        rows.append(
            _row(section.name, [f"{shown(c['seconds'])} s, {shown(c['gradient passes'])} passes" for c in costs])
        )
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _table(named: Mapping[str, Mapping[str, Any]]) -> str:
    ((head, values),) = named.items()
    rows = [_row(head, [""], head=True), *(_row(key, [shown(value)]) for key, value in values.items())]
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _row(name: str, cells: list[str], about: str = "", head: bool = False) -> str:
    tag = "th" if head else "td"
    first = f"<th>{escape(name)}{f'<small>{escape(about)}</small>' if about else ''}</th>"
    row = f"<tr>{first}{''.join(f'<{tag}>{_breakable(cell)}</{tag}>' for cell in cells)}</tr>"
    return f"<thead>{row}</thead>" if head else row


def _breakable(text: str) -> str:
    """With places where a long name may be broken into lines."""
    return escape(text).replace("_", "_<wbr>").replace("(", "(<wbr>")


def _pictures(section: Section, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Each in a file of its own, so that they stand below each other where there is little room."""
    from matplotlib.figure import Figure

    measured = {name: each[section.name] for name, each in results.items()}
    measured = {name: result for name, result in measured.items() if not isinstance(result, NotMeasured)}
    if not measured or section.draw is None:
        return ""
    names = [", ".join(measured)] if section.together else list(measured)
    axes = [Figure(figsize=(5.0, 4.0), dpi=160, layout="constrained").add_subplot() for _ in names]
    section.draw(measured, axes)
    images = "".join(_image(f"{section.name}: {name}", ax) for name, ax in zip(names, axes, strict=True))
    caption = f"<figcaption>{escape(section.caption)}</figcaption>"
    return (
        f'<section><h2>{escape(section.name.capitalize())}</h2><figure><div class="pictures">{images}</div>'
        f"{caption}</figure></section>\n"
    )


def _image(text: str, ax: Any) -> str:
    file = io.BytesIO()
    ax.figure.savefig(file, format="png", metadata={"Software": None})
    data = base64.b64encode(file.getvalue()).decode()
    width, height = (int(inches * 80) for inches in ax.figure.get_size_inches())
    return f'<img alt="{escape(text)}" width="{width}" height="{height}" src="data:image/png;base64,{data}">'


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
