"""What the docstring of a public name must say, as far as code can tell.

Each rule yields complaints. Where one is narrower than it could be, its own
docstring says why.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import m2at_mm

PACKAGE = Path(m2at_mm.__file__).parent
_SECTION = re.compile(
    r'^(Args|Attributes|Returns|Yields|Raises|Example):$', re.MULTILINE
)
_ENTRY = re.compile(
    r'^    (\*{0,2}\w+)(?: \(.*?\))?:(.*?)(?=^ {0,4}\S|\Z)', re.M | re.S
)
_TENSOR = re.compile(r'\b(Tensor|ndarray)\b')
# Tensors by name, each of its own shape; or what a function takes.
_NOT_ONE = re.compile(r'\b(dict|Callable)\b')
_SHAPE = re.compile(r'\b(shape|scalar)\b', re.IGNORECASE)
_IMAGES = {'images', 'inputs', 'adversarial', 'clean', 'training'}
_RANGE = re.compile(r'\[0, 1\]|0-255|0\.\.255|any dtype and range')


@dataclass(frozen=True)
class Documented:
    """A public class, or a function, method or property.

    Attributes:
        name: With its module, and with its class.
        what: The object itself.
        owner: The class of a method, None for what is no method.
    """

    name: str
    what: Any
    owner: type | None = None

    @property
    def is_class(self) -> bool:
        return inspect.isclass(self.what)

    @property
    def code(self) -> Any:
        """The function, of a method or property, too."""
        found = getattr(self.what, 'fget', self.what)
        return inspect.unwrap(getattr(found, '__func__', found))

    @cached_property
    def sections(self) -> dict[str, str]:
        """Texts by heading, the first without one."""
        text = inspect.cleandoc(self.what.__doc__ or '')
        first, *parts = _SECTION.split(text)
        return {'': first, **dict(zip(parts[::2], parts[1::2]))}

    def entries(self, section: str) -> dict[str, str]:
        found = _ENTRY.findall(self.sections.get(section, ''))
        return {name: ' '.join(text.split()) for name, text in found}

    @property
    def described(self) -> dict[str, str]:
        """Arguments. A class without them has attributes that it is given."""
        return self.entries(
            'Args' if 'Args' in self.sections else 'Attributes'
        )

    @cached_property
    def parameters(self) -> dict[str, str]:
        """Annotations by name; of a class, those of its constructor."""
        if getattr(self.what, '_is_protocol', False):
            return {}
        stars = {
            inspect.Parameter.VAR_POSITIONAL: '*',
            inspect.Parameter.VAR_KEYWORD: '**',
        }
        found = inspect.signature(self.what if self.is_class else self.code)
        return {
            stars.get(one.kind, '') + name: str(one.annotation)
            for name, one in found.parameters.items()
            if name not in ('self', 'cls')
        }

    @property
    def result(self) -> str:
        """The annotation of what is returned."""
        if self.is_class:
            return 'None'
        return str(inspect.signature(self.code).return_annotation)

    @property
    def inherits(self) -> bool:
        """Whether another class says what the arguments are.

        ``nn.Module``'s ``forward`` doesn't: it takes anything.
        """
        if self.is_class:
            # A named tuple and a dataclass have a constructor of their own.
            return not {'__init__', '__new__'} & set(vars(self.what))
        name = self.code.__name__
        if self.owner is None or name == 'forward':
            return False
        return sum(name in vars(one) for one in self.owner.__mro__) > 1


def check(one: Documented) -> list[str]:
    """All complaints about a docstring."""
    if not one.what.__doc__:
        return ['has no docstring']
    return [
        complaint
        for rule in (_arguments, _result, _errors, _tensors)
        for complaint in rule(one)
    ]


def _arguments(one: Documented) -> Iterator[str]:
    """Every argument is described, and nothing else.

    Where another class describes them, as MMEngine's does those of a hook's
    methods, they may be left out, or ``*args`` and ``**kwargs`` stand for
    all.
    """
    described = set(one.described)
    known = set(one.parameters)
    if one.inherits:
        known |= {'*args', '**kwargs'}
    else:
        for name in known - described:
            yield f'argument {name} is not described'
    for name in described - known:
        yield f'argument {name} does not exist'


def _result(one: Documented) -> Iterator[str]:
    """What is returned is described.

    The summary does for a property and for what takes no arguments:
    ``"How many steps the attack has, K."``
    """
    given = {'Returns', 'Yields'} & set(one.sections)
    nothing = one.result in ('None', 'Iterator[None]')
    if nothing and given:
        yield f'{given.pop()}, but it is {one.result}'
    if not (nothing or given or one.inherits) and one.parameters:
        yield 'what it returns is not described'


def _errors(one: Documented) -> Iterator[str]:
    """Errors raised here are listed; listed ones are raised here or further.

    Users meet those of the functions that are called, too, so these may be
    listed. They are looked for by name alone.
    """
    listed = set(one.entries('Raises'))
    own = _raised_in(one)
    for name in own - listed:
        yield f'{name} is raised, but not listed'
    starts = [one.code.__name__]
    if one.is_class:
        starts = [base.__name__ for base in one.what.__mro__]
    raised = own | _raised_from(starts)
    for name in listed - raised:
        kinds = [getattr(builtins, found, object) for found in raised]
        # A FileNotFoundError may be listed as the OSError that it is.
        if not any(issubclass(k, getattr(builtins, name)) for k in kinds):
            yield f'{name} is listed, but not raised'


def _tensors(one: Documented) -> Iterator[str]:
    """Tensors and arrays have a shape, images also a range."""
    described = one.described
    for name, annotation in one.parameters.items():
        text = described.get(name)
        if text is None or not _is_tensor(annotation):
            continue
        if not _SHAPE.search(text):
            yield f'argument {name} has no shape'
        if name in _IMAGES and not _RANGE.search(text):
            yield f'images {name} have no range'
    text = ' '.join(
        one.sections.get(key, '') for key in ('', 'Returns', 'Yields')
    )
    if _is_tensor(one.result) and not one.inherits and not _SHAPE.search(text):
        yield 'what it returns has no shape'


def _is_tensor(annotation: str) -> bool:
    return bool(_TENSOR.search(annotation) and not _NOT_ONE.search(annotation))


def _raised_in(one: Documented) -> set[str]:
    """Types that the body raises; of a class, its constructor's."""
    source = textwrap.dedent(
        inspect.getsource(one.what if one.is_class else one.code)
    )
    (tree,) = ast.parse(source).body
    if not one.is_class:
        return set(_raises_of(tree))
    return {
        name
        for node in ast.iter_child_nodes(tree)
        if getattr(node, 'name', '') in ('__init__', '__post_init__')
        for name in _raises_of(node)
    }


def _raises_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield ast.unparse(node.exc.func)


@cache
def _package() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """What functions and classes of a name raise, and what they call."""
    raises: dict[str, set[str]] = {}
    calls: dict[str, set[str]] = {}
    for path in PACKAGE.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                raises.setdefault(node.name, set()).update(_raises_of(node))
                calls.setdefault(node.name, set()).update(
                    getattr(one.func, 'attr', getattr(one.func, 'id', ''))
                    for one in ast.walk(node)
                    if isinstance(one, ast.Call)
                )
    return raises, calls


def _raised_from(names: list[str]) -> set[str]:
    """Types that are raised by what has these names or is called by it."""
    raises, calls = _package()
    found: set[str] = set()
    seen: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            found |= raises.get(name, set())
            todo += calls.get(name, set())
    return found
