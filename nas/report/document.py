"""One HTML file that asks the network for nothing: style, plots with their data, the plotting library and the page's own script.

A content security policy says so to the browser, and lets it run the page's own scripts alone, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import platform
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from nas.provenance import versions
from nas.report.figures import Figure
from nas.report.markup import Html, html, script_json, tag

_HERE = Path(__file__).parent


def plot(name: str, title: str, words: str) -> Html:
    """The place of the figure of that name, under its title, with `words` below."""
    place = tag("div", class_="plot", data_figure=name, role="img", aria_label=f"{title or 'Plot'}. {words}".strip())
    heading = [tag("h3", title)] if title else []
    return tag("figure", *heading, place, *([tag("figcaption", words)] if words else []))


def document(title: str, body: Html, figures: dict[str, Figure]) -> str:
    """The whole page; `figures` by the names of their plots."""
    scripts = ([_plotly()] if figures else []) + [(_HERE / "page.js").read_text()]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts)
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'; form-action 'none'"
    data = f'<script type="application/json" id="figures">{script_json(figures)}</script>'
    code = "".join(f"<script>{text}</script>" for text in scripts)
    footer = f"Written by edgenas {versions()['edgenas']} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}."
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{(_HERE / 'page.css').read_text()}</style></head>\n"
        f"<body><main>{html(body)}<footer>{escape(footer)}</footer></main>\n{data}\n{code}</body></html>\n"
    )


def _plotly() -> str:
    """plotly.js, whole; line ends as an HTML parser makes them, so that the hash is that of what the browser runs."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")
