"""One HTML page on one or several runs."""

from collections.abc import Callable, Iterable
from datetime import datetime, timezone

from markupsafe import Markup

from m2at_mm.reporting import (
    accuracy_sections,
    image_sections,
    training_sections,
)
from m2at_mm.reporting.html import templates
from m2at_mm.reporting.measurement import Report
from m2at_mm.version import __version__

#: The sections in their order: id, title, and what turns the data into HTML
#: blocks. A section without blocks is left out.
SECTIONS: list[tuple[str, str, Callable[[Report], Iterable[Markup]]]] = [
    ('runs', 'Runs', training_sections.overview),
    ('evaluation', 'Final evaluation', accuracy_sections.evaluation),
    ('settings', 'Settings', training_sections.settings),
    ('curves', 'Training', training_sections.curves),
    ('sweep', 'Accuracy against eps', accuracy_sections.sweep),
    ('classes', 'Confusion by class', accuracy_sections.confusions),
    ('examples', 'Examples', image_sections.examples),
    ('surfaces', 'Loss surface', image_sections.surfaces),
    ('left-out', 'Not measured', image_sections.left_out),
    ('environment', 'Environment and commands', training_sections.origin),
]


def render(report: Report) -> str:
    """Write the page, as HTML that needs no other file."""
    sections = [
        dict(id=name, title=title, blocks=found)
        for name, title, section in SECTIONS
        if (found := list(section(report)))
    ]
    now = datetime.now(timezone.utc)
    html = templates.get_template('page.html').render(
        names=', '.join(run.name for run in report.runs),
        sections=sections,
        footer=f'm2at_mm {__version__}, {now:%Y-%m-%d %H:%M} UTC',
    )
    # Paths may hold bytes that are no UTF-8.
    return html.encode('utf-8', errors='replace').decode()
