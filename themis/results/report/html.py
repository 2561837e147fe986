"""One HTML file that holds a whole report and needs nothing else.

No network: the content security policy forbids every load, and allows the one script and the
one style sheet of the file by their hashes, so a script smuggled in by a model's output could
not run even if escaping had a hole. Tables and plots are plain HTML and SVG, readable without
scripts; only the item browser needs them.
"""

import hashlib
from base64 import b64encode
from importlib.resources import files

from themis.results.report import html_panels, numbers
from themis.results.report.data import ReportData
from themis.results.report.html_items import pack_items
from themis.results.report.html_parts import text


def render_html(data: ReportData, *, max_items: int = 50_000) -> str:
    """Write a report as one HTML file.

    Args:
        data: The report; its items are read once, in order.
        max_items: Items to put into the file. When there are more, the first ones are kept
            and the page says how many are not in it.
    """
    style, script = _asset("report.css"), _asset("report.js")
    packed = pack_items(data.items, max_items, data.paired, data.directions)
    notes = list(data.notes)
    if packed.left_out:
        notes.append(
            f"The item browser holds the first {numbers.count(packed.kept)} answers; "
            f"{numbers.count(packed.left_out)} more are not in this file."
        )
    policy = (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}'; "
        f"style-src 'sha256-{_digest(style)}'; base-uri 'none'; form-action 'none'"
    )
    shown = [
        section
        for section in _sections(data, browser=_BROWSER if packed.kept else "")
        if section[2]
    ]
    body = "".join(
        f'<section id="{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{title}</h2>{content}'
        "</section>\n"
        for name, title, content in shown
    )
    said = "".join(f'<p class="note">{text(note)}</p>' for note in notes)
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(data.title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the results</a>\n'
        f'<header><div class="head"><h1>{text(data.title)}</h1><div id="tools"></div></div>'
        f'<p class="quiet">run {text(data.run_id)}, {text(data.created)}</p>{said}</header>\n'
        f'<nav aria-label="Sections"><div>{links}</div></nav>\n'
        f'<main id="main" tabindex="-1">\n{body}</main>\n{packed.scripts}'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _sections(data: ReportData, *, browser: str) -> list[tuple[str, str, str]]:
    return [
        ("census", "Census", html_panels.census(data.census)),
        ("scores", "Scores", html_panels.scores(data.aggregates)),
        ("differences", "Paired differences", html_panels.differences(data.paired)),
        ("breakdowns", "Breakdown", html_panels.breakdowns(data)),
        ("tokens", "Score and tokens", html_panels.tokens(data)),
        ("items", "Items", browser),
        ("timeline", "Shards", html_panels.timeline(data)),
        ("provenance", "Provenance", html_panels.provenance(data)),
        ("configuration", "Configuration", html_panels.config(data.config)),
    ]


def _asset(name: str) -> str:
    return files("themis.results.report").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    return b64encode(hashlib.sha256(content.encode()).digest()).decode()


_BROWSER = _asset("browser.html")
