"""The sections of a report on single images under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from m2at_mm.attacks import ThreatModel
from m2at_mm.attacks.logits import NO_LABEL
from m2at_mm.reporting.blocks import Block, ExamplePanel, Section
from m2at_mm.reporting.heat_maps import draw_surface
from m2at_mm.reporting.inline_svg import to_img
from m2at_mm.reporting.measurement import (
    ATTACK,
    Example,
    Measurement,
    class_names,
)
from m2at_mm.reporting.run_log import RunLog


def examples(
    runs: Sequence[RunLog], measured: Mapping[str, Measurement]
) -> Section:
    """Images before and after the attack, with the predictions."""
    text = (
        f'Some test images under {ATTACK} at the radius of the run. The '
        'perturbation is amplified so that the radius fills the scale; grey '
        'is no change.'
    )
    blocks = [Block('text', text)]
    for run in runs:
        if run.name not in measured:
            continue
        found = measured[run.name]
        names = class_names(run.config)
        blocks.append(Block('heading', run.name))
        panels = [
            _panel(example, number, names, found.threat_model)
            for number, example in enumerate(found.examples)
        ]
        blocks.append(Block('examples', content=panels))
    return Section('examples', 'Examples', blocks)


def _panel(
    example: Example,
    number: int,
    names: Sequence[str] | None,
    threat: ThreatModel,
) -> ExamplePanel:
    def name(index: int) -> str:
        return names[index] if names else f'class {index}'

    def say(found: tuple[int, float]) -> str:
        if found[0] == NO_LABEL:
            return 'logits that are not finite (wrong)'
        verdict = 'right' if found[0] == example.label else 'wrong'
        return f'{name(found[0])}, {100 * found[1]:.0f} % ({verdict})'

    change = example.adversarial - example.clean
    largest = threat.eps if threat.norm == 'linf' else abs(change).max()
    amplified = 0.5 + change / (2 * max(largest, 1e-12))
    what = f'test image {number + 1}, {name(example.label)}'
    return ExamplePanel(
        panels=[
            ('clean', to_img(example.clean, f'Clean {what}')),
            ('perturbation', to_img(amplified, f'Perturbation of {what}')),
            ('adversarial', to_img(example.adversarial, f'Attacked {what}')),
        ],
        lines=[
            f'True class: {name(example.label)}',
            f'Clean: {say(example.predicted)}',
            f'Adversarial: {say(example.attacked)}',
        ],
    )


def surfaces(
    runs: Sequence[RunLog], measured: Mapping[str, Measurement]
) -> Section:
    """The loss around images along the gradient and a random direction."""
    text = (
        'Cross-entropy around some of these images, up to one radius of the '
        'run along the gradient (the steepest step in the norm) and along a '
        'random direction. White lines are decision boundaries, the cross is '
        'the clean image. A smooth slope to the right is what an attack '
        'follows; a flat or jagged one is a sign of masked gradients.'
    )
    blocks = [Block('text', text)]
    for number, run in enumerate(runs):
        if run.name not in measured:
            continue
        found = measured[run.name]
        names = class_names(run.config)
        blocks.append(Block('heading', run.name))
        figures = []
        for position, surface in enumerate(found.surfaces):
            label = found.examples[position].label
            figures.append(
                draw_surface(
                    f'surface-{number}-{position}',
                    f'Image {position + 1}, '
                    f'{names[label] if names else f"class {label}"}',
                    surface,
                )
            )
        blocks.append(Block('figures', content=figures, small=True))
    return Section('surfaces', 'Loss surface', blocks)
