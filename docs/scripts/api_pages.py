"""Hook of mkdocs: a page of the API for each package of m2at_mm.

The pages are made while the site is built, from each package's `__all__`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).resolve().parents[2] / 'm2at_mm'


def packages() -> Iterator[Path]:
    """The folders of the package, by name."""
    for init in sorted(PACKAGE.glob('*/__init__.py')):
        yield init.parent


def exported(package: Path) -> dict[str, str]:
    """Where each name that a package exports is defined, by name."""
    tree = ast.parse((package / '__init__.py').read_text('utf-8'))
    homes = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            base = f'm2at_mm.{package.name}.' if node.level else ''
            for alias in node.names:
                homes[alias.name] = f'{base}{node.module}.{alias.name}'
        if isinstance(node, ast.Assign) and node.targets[0].id == '__all__':
            return {name: homes[name] for name in ast.literal_eval(node.value)}
    raise ValueError(f'{package} has no __all__: add it to its __init__.py')


def page(package: Path) -> str:
    """The source of a package's page."""
    tree = ast.parse((package / '__init__.py').read_text('utf-8'))
    names = exported(package)
    lines = [f'# m2at_mm.{package.name}', ast.get_docstring(tree) or '']
    lines += [f'```python\nfrom m2at_mm.{package.name} import ...\n```']
    lines += [f'::: {names[name]}' for name in sorted(names, key=str.lower)]
    return '\n\n'.join(lines) + '\n'


def on_config(config: MkDocsConfig) -> None:
    """Add the pages to the navigation, below the reference."""
    pages = [f'api/{package.name}.md' for package in packages()]
    for entry in config.nav or []:
        if 'Reference' in entry:
            entry['Reference'].append({'API': ['api/index.md', *pages]})


def on_files(files: Files, config: MkDocsConfig, **kwargs: Any) -> Files:
    """Add the pages themselves."""
    for package in packages():
        name = f'api/{package.name}.md'
        files.append(File.generated(config, name, content=page(package)))
    return files
