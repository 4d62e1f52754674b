"""Draws docs/images/architecture.svg, which package imports which.

    python docs/scripts/draw_architecture.py

A test holds the arrows against the imports in the sources.
"""

from html import escape
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / 'images' / 'architecture.svg'
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 168, 50, 22, 44, 14
# Each box: column and row from the top left, columns it fills, its purpose.
BOXES = {
    'reporting': (1, 0, 1, 'HTML pages on runs'),
    'hooks': (5, 0, 1, 'checks, resume, guard'),
    'cli': (0, 1, 1, 'what tools share'),
    'recipes': (0, 2, 1, 'stock to adversarial'),
    'runner': (1, 2, 1, 'loops, whole files'),
    'evaluation': (2, 2, 1, 'attacks, alarms, tables'),
    'exchange': (3, 2, 1, 'checkpoints in and out'),
    'optim': (4, 2, 1, 'weight perturbation'),
    'visualization': (5, 2, 1, 'pictures'),
    'model_wrappers': (0, 3, 6, 'the adversarial classifier, and its DDP'),
    'data_preprocessors': (3, 4, 1, 'images in [0, 1]'),
    'methods': (0, 5, 6, 'attack to loss: M2AT and what it is compared to'),
    'attacks': (0, 6, 2, 'threat model, PGD, AutoAttack'),
    'backbones': (2, 6, 1, 'networks for CIFAR'),
    'datasets': (5, 6, 1, 'held-out splits'),
}
# An arrow stands for at least one import; what can be reached along arrows
# may be imported, too. The registry, the version, checks of arguments and of
# versions (`compat`), the reading of checkpoints and the labels of a batch
# (`structures`) are for all, not drawn.
ARROWS = (
    ('reporting', 'cli'),
    ('reporting', 'evaluation'),
    ('hooks', 'evaluation'),
    ('hooks', 'visualization'),
    ('hooks', 'datasets'),
    ('cli', 'recipes'),
    ('cli', 'runner'),
    ('exchange', 'model_wrappers'),
    ('evaluation', 'model_wrappers'),
    ('evaluation', 'datasets'),
    ('hooks', 'runner'),
    ('recipes', 'model_wrappers'),
    ('runner', 'model_wrappers'),
    ('runner', 'datasets'),
    ('optim', 'model_wrappers'),
    ('visualization', 'model_wrappers'),
    ('model_wrappers', 'data_preprocessors'),
    ('model_wrappers', 'methods'),
    ('data_preprocessors', 'methods'),
    ('methods', 'attacks'),
)
STYLE = (
    'text{font-family:sans-serif;text-anchor:middle;fill:#222}'
    '.name{font-size:15px;font-weight:600}.purpose{font-size:12px}'
    'rect{fill:#f2f4fb;stroke:#5566aa;rx:6}'
    'path{fill:none;stroke:#5566aa;stroke-width:1.4}'
    '.page{fill:#fff;stroke:none}'
)


def corner(name: str) -> tuple[int, int, int]:
    """Left, top and width of a box, in pixels."""
    column, row, span, _ = BOXES[name]
    left = MARGIN + column * (WIDTH + GAP_X)
    top = MARGIN + row * (HEIGHT + GAP_Y)
    return left, top, span * WIDTH + (span - 1) * GAP_X


def draw_box(name: str) -> str:
    """A box with its name and purpose."""
    left, top, width = corner(name)
    middle = left + width // 2
    return (
        f'<rect x="{left}" y="{top}" width="{width}" height="{HEIGHT}"/>'
        f'<text class="name" x="{middle}" y="{top + 21}">{name}</text>'
        f'<text class="purpose" x="{middle}" y="{top + 39}">'
        f'{escape(BOXES[name][3])}</text>\n'
    )


def draw_arrow(source: str, target: str) -> str:
    """An arrow; one that would cross other rows goes round them."""
    left, top, width = corner(source)
    to_left, to_top, to_width = corner(target)
    start, bottom = left + width // 2, top + HEIGHT
    end = to_left + to_width // 2
    if target == 'datasets':
        edge = to_left + to_width + GAP_X
        way = f'M{left + 3 * width // 4} {bottom}V{bottom + GAP_Y // 2}'
        way += f'H{edge}V{to_top + HEIGHT // 2}H{to_left + to_width + 2}'
    else:
        if to_width > width:  # straight down onto a wide box
            end = start
        elif width > to_width:
            start = end
        way = f'M{start} {bottom}L{end} {to_top - 2}'
    return (
        f'<path data-from="{source}" data-to="{target}" d="{way}" '
        'marker-end="url(#tip)"/>\n'
    )


def draw() -> str:
    """The whole drawing."""
    columns = max(column + span for column, _, span, _ in BOXES.values())
    rows = 1 + max(row for _, row, _, _ in BOXES.values())
    width = 2 * MARGIN + columns * (WIDTH + GAP_X) + GAP_X // 2
    height = 2 * MARGIN + rows * (HEIGHT + GAP_Y) - GAP_Y
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {width} {height}">\n'
        f'<title>Packages of m2at_mm and their imports</title>\n'
        f'<style>{STYLE}</style>\n'
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" style="fill:#5566aa;stroke:none"/>'
        '</marker>\n'
        f'<rect class="page" width="{width}" height="{height}"/>\n'
        + ''.join(map(draw_box, BOXES))
        + ''.join(draw_arrow(*arrow) for arrow in ARROWS)
        + '</svg>\n'
    )


if __name__ == '__main__':
    OUT.write_text(draw(), 'utf-8')
