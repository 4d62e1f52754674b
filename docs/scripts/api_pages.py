"""Hook of mkdocs: a page of the API for each part of m2at_mm.

The pages are made while the site is built, from each `__all__`.
"""

import ast
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).resolve().parents[2] / 'm2at_mm'


def parts() -> dict[str, ast.Module]:
    """The folders and modules that export something, by name."""
    inits = {path.parent.name: path for path in PACKAGE.glob('*/__init__.py')}
    modules = {
        path.stem: path
        for path in PACKAGE.glob('[!_]*.py')
        if '\n__all__ = ' in path.read_text('utf-8')
    }
    return {
        name: ast.parse(path.read_text('utf-8'))
        for name, path in sorted((inits | modules).items())
    }


def exported(part: str, tree: ast.Module) -> dict[str, str]:
    """Where each name that a part exports is defined, by name."""
    homes, names = {}, None
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            base = f'm2at_mm.{part}.' if node.level else ''
            for alias in node.names:
                homes[alias.name] = f'{base}{node.module}.{alias.name}'
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            homes[node.name] = f'm2at_mm.{part}.{node.name}'
        if isinstance(node, ast.Assign) and node.targets[0].id == '__all__':
            names = ast.literal_eval(node.value)
    if names is None:
        raise ValueError(f'm2at_mm.{part} has no __all__: add it')
    return {name: homes[name] for name in names}


def page(part: str, tree: ast.Module) -> str:
    """The source of a part's page."""
    names = exported(part, tree)
    lines = [f'# m2at_mm.{part}', ast.get_docstring(tree) or '']
    lines += [f'```python\nfrom m2at_mm.{part} import ...\n```']
    lines += [f'::: {names[name]}' for name in sorted(names, key=str.lower)]
    return '\n\n'.join(lines) + '\n'


def on_config(config: MkDocsConfig) -> None:
    """Add the pages to the navigation, below the reference."""
    pages = [f'api/{part}.md' for part in parts()]
    for entry in config.nav or []:
        if 'Reference' in entry:
            entry['Reference'].append({'API': ['api/index.md', *pages]})


def on_files(files: Files, config: MkDocsConfig, **kwargs: Any) -> Files:
    """Add the pages themselves."""
    for part, tree in parts().items():
        name = f'api/{part}.md'
        files.append(File.generated(config, name, content=page(part, tree)))
    return files
