"""What a page is made of: sections of headings, texts, tables, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

#: What stands in a cell without a value.
EMPTY = '–'
#: A text, or a value with a smaller remark, like its interval.
Cell = str | tuple[str, str]


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of which names the row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Block:
    """A part of a section; the template knows each kind.

    Attributes:
        kind (str): ``'heading'``, ``'text'``, ``'warning'``, ``'code'``,
            ``'table'``, ``'settings'``, ``'folded'``, ``'figures'`` or
            ``'examples'``.
        text (str): Of all but tables and figures.
        content: A :class:`Table`, figures, or examples.
        small (bool): Whether figures are small.
    """

    kind: str
    text: str = ''
    content: Any = None
    small: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page with a title and an id."""

    id: str
    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class ExamplePanel:
    """Images side by side, each with a label, and lines of text below."""

    panels: Sequence[tuple[str, Markup]]
    lines: Sequence[str]
