"""Shows reStructuredText in docstrings as the Markdown that the site wants."""

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r':(?:attr|class|data|exc|func|meth|mod):`~?([^`]+)`')
_EXAMPLE = re.compile(r'^Example:$', re.MULTILINE)
_LITERAL_BLOCK = re.compile(r'::(?=\n\s*\n)')


def to_markdown(text: str) -> str:
    """Roles become code, the colons of a literal block one colon.

    A single example becomes examples: griffe shows those alone as Python.
    """
    text = _EXAMPLE.sub('Examples:', _ROLE.sub(r'`\1`', text))
    return _LITERAL_BLOCK.sub(':', text)


class Docstrings(Extension):
    """Extension of griffe, which mkdocstrings reads the package with."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
