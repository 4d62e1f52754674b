"""One HTML page on one or several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from jinja2 import Environment, PackageLoader, StrictUndefined

from m2at_mm.reporting import (
    accuracy_sections,
    image_sections,
    log_sections,
)
from m2at_mm.reporting.blocks import Block, Section
from m2at_mm.reporting.measurement import Measurement
from m2at_mm.reporting.run_log import RunLog
from m2at_mm.version import __version__


def render(
    runs: Sequence[RunLog],
    measured: Mapping[str, Measurement],
    missing: Mapping[str, str],
) -> str:
    """Write the page.

    Args:
        runs (Sequence[RunLog]): At least one.
        measured (Mapping[str, Measurement]): By the name of a run.
        missing (Mapping[str, str]): Why a run has no measurement, by its
            name.

    Returns:
        str: HTML that needs no other file.
    """
    sections = [
        log_sections.overview(runs),
        accuracy_sections.evaluation(runs),
        log_sections.settings(runs),
        log_sections.curves(runs),
        accuracy_sections.sweep(runs, measured),
        accuracy_sections.confusions(runs, measured),
    ]
    if measured:
        sections.append(image_sections.examples(runs, measured))
        sections.append(image_sections.surfaces(runs, measured))
    if missing:
        sections.append(_left_out(missing))
    sections.append(log_sections.origin(runs))
    environment = Environment(
        loader=PackageLoader('m2at_mm.reporting'),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    now = datetime.now(timezone.utc)
    html = environment.get_template('page.html').render(
        names=', '.join(run.name for run in runs),
        sections=sections,
        footer=f'm2at_mm {__version__}, {now:%Y-%m-%d %H:%M} UTC',
    )
    # Paths may hold bytes that are no UTF-8.
    return html.encode('utf-8', errors='replace').decode()


def _left_out(missing: Mapping[str, str]) -> Section:
    """Say plainly which runs were not measured."""
    blocks = [
        Block('warning', f'{name} was not attacked for this report: {reason}')
        for name, reason in missing.items()
    ]
    return Section('left-out', 'Not measured', blocks)
