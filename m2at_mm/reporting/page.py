"""One HTML page on one or several runs, and its sections on images."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from typing import Any

from markupsafe import Markup

from m2at_mm.attacks.logits import NO_LABEL
from m2at_mm.reporting import accuracy_sections, headline, training_sections
from m2at_mm.reporting.figures import draw_surface
from m2at_mm.reporting.html import blocks, templates, to_img
from m2at_mm.reporting.measurement import ATTACK, Report
from m2at_mm.reporting.run_log import RunLog
from m2at_mm.version import __version__


def _class(report: Report, run: RunLog, label: int) -> str:
    names = report.class_names(run)
    return names[label] if names else f'class {label}'


def examples(report: Report) -> Iterator[Markup]:
    """Images before and after the attack, with the predictions."""
    if report.measured:
        text = f'Some test images under {ATTACK} at the radius of the run. '
        text += 'The perturbation is amplified so that the radius fills the '
        yield blocks.text(f'{text}scale; grey is no change.')
    for run in report.runs:
        if run.name in report.measured:
            yield blocks.heading(run.name)
            yield blocks.examples(_panels(report, run))


def _panels(report: Report, run: RunLog) -> Iterator[tuple[Any, Any]]:
    """Three images and three lines of text for each example."""
    found = report.measured[run.name]
    threat = found.outcome.threat_model
    for number, example in enumerate(found.examples, 1):
        change = example.adversarial - example.clean
        largest = threat.eps if threat.norm == 'linf' else abs(change).max()
        amplified = 0.5 + change / (2 * max(largest, 1e-12))
        name = _class(report, run, example.label)
        lines = [f'True class: {name}']
        given = dict(Clean=example.predicted, Adversarial=example.attacked)
        for when, (label, share) in given.items():
            verdict = 'right' if label == example.label else 'wrong'
            shown = f'{100 * share:.0f} % ({verdict})'
            if label == NO_LABEL:
                lines.append(f'{when}: logits that are not finite (wrong)')
            else:
                lines.append(f'{when}: {_class(report, run, label)}, {shown}')
        what = f'test image {number}, {name}'
        panels = dict(clean=(example.clean, f'Clean {what}'))
        panels['perturbation'] = amplified, f'Perturbation of {what}'
        panels['adversarial'] = example.adversarial, f'Attacked {what}'
        yield [(label, to_img(*panels[label])) for label in panels], lines


def surfaces(report: Report) -> Iterator[Markup]:
    """The loss around images along the gradient and a random direction."""
    if report.measured:
        yield blocks.text(
            'Cross-entropy around some of these images, up to one radius '
            'of the run along the gradient (the steepest step in the '
            'norm) and along a random direction. White lines are decision '
            'boundaries, the cross is the clean image. A smooth slope to '
            'the right is what an attack follows; a flat or jagged one is '
            'a sign of masked gradients.'
        )
    for number, run in enumerate(report.runs):
        if (found := report.measured.get(run.name)) is not None:
            yield blocks.heading(run.name)
            figures = []
            for k, surface in enumerate(found.surfaces, 1):
                name = _class(report, run, found.examples[k - 1].label)
                given = f'surface-{number}-{k}', f'Image {k}, {name}'
                figures.append(draw_surface(*given, surface))
            yield blocks.figures(figures, small=True)


def left_out(report: Report) -> Iterator[Markup]:
    """Which runs were not measured, and why."""
    told = '{} was not attacked for this report: {}'
    for missing in report.missing.items():
        yield blocks.warning(told.format(*missing))


#: The sections in their order: id, title, and what turns the data into HTML
#: blocks. A section without blocks is left out.
SECTIONS: list[tuple[str, str, Callable[[Report], Iterable[Markup]]]] = [
    ('result', 'Result', headline.result),
    ('runs', 'Runs', training_sections.overview),
    ('evaluation', 'Final evaluation', accuracy_sections.evaluation),
    ('settings', 'Settings', training_sections.settings),
    ('curves', 'Training', training_sections.curves),
    ('sweep', 'Accuracy against eps', accuracy_sections.sweep),
    ('classes', 'Confusion by class', accuracy_sections.confusions),
    ('examples', 'Examples', examples),
    ('surfaces', 'Loss surface', surfaces),
    ('left-out', 'Not measured', left_out),
    ('environment', 'Environment and commands', training_sections.origin),
]


def render(report: Report) -> str:
    """Write the page, as HTML that needs no other file."""
    sections = [
        dict(id=name, title=title, blocks=found)
        for name, title, section in SECTIONS
        if (found := list(section(report)))
    ]
    names = ', '.join(run.name for run in report.runs)
    now = f'{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC'
    given = dict(sections=sections, footer=f'm2at_mm {__version__}, {now}')
    page = templates.get_template('page.html').render(names=names, **given)
    # Paths may hold bytes that are no UTF-8.
    return page.encode('utf-8', errors='replace').decode()
