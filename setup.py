"""Builds and installs m2at_mm."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What OpenMMLab's tools look for in `<package>/.mim` of an installed package.
MIM_SOURCES = ('configs', 'tools', 'model-index.yml', 'docs/methods')


def read_version() -> str:
    """Read the version without importing the package, which needs torch."""
    text = (ROOT / 'm2at_mm' / 'version.py').read_text(encoding='utf-8')
    match = re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
    if match is None:
        raise ValueError("m2at_mm/version.py has no line __version__ = '...'")
    return match.group(1)


def read_readme() -> str:
    """Read README.md without what leads into the repository.

    Package indexes show it without the files beside it.
    """
    readme = ROOT / 'README.md'
    text = readme.read_text(encoding='utf-8') if readme.exists() else ''
    inside = r'\[([^][]+)\]\((?!https?://|#)[^)]+\)'
    text = re.sub(rf'!{inside}\n+(\*.*?\*\n)?', '', text, flags=re.DOTALL)
    return re.sub(inside, r'\1', text)


def mim_files() -> list[str]:
    """List the files that go into `.mim`, relative to the repository root."""
    found: list[str] = []
    for source in MIM_SOURCES:
        path = ROOT / source
        files = [path] if path.is_file() else sorted(path.rglob('*'))
        found += [
            file.relative_to(ROOT).as_posix()
            for file in files
            if file.is_file() and '__pycache__' not in file.parts
        ]
    return found


class BuildPyWithMim(build_py):
    """Copies configs and tools into the wheel, as OpenMMLab packages do."""

    def run(self) -> None:
        """Build the package, and `.mim` too unless this is editable."""
        if self.editable_mode:  # the checkout's own configs and tools serve
            super().run()
            return
        package = Path(self.build_lib) / 'm2at_mm'
        # An earlier build may have left files that the sources have no more.
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        for name in mim_files():
            target = package / '.mim' / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)

    def get_source_files(self) -> list[str]:
        """Name the files of a source distribution."""
        return [*super().get_source_files(), *mim_files()]


EVAL = ['pyautoattack>=0.2']
ATTACKS = ['foolbox>=3.3.4', 'torchattacks>=3.5.1']
EXPORT = ['onnx', 'onnxscript', 'onnxruntime']
DEMO = ['scikit-learn', 'matplotlib>=3.7']
REPORT = ['matplotlib>=3.7', 'jinja2']
DOCS = [
    'mkdocs>=1.6,<2',
    'mkdocs-material>=9.5,<10',
    'mkdocstrings[python]>=0.26',
    'ruff',  # formats the signatures
]
# torchattacks, which some tests use, too, pins requests~=2.25.1, which
# mkdocs-material excludes: `make test` installs it with --no-deps.
TEST = [
    'pytest',
    'pytest-xdist',
    'ruff',
    'mypy',
    'foolbox>=3.3.4',  # independent PGD that ours is tested against
    'allpairspy',  # chooses the combinations that are tried
    'timm',  # their classifiers are evaluated and trained, too
    'transformers',
    *EVAL,
    *EXPORT,
    *DEMO,
    *REPORT,
    *DOCS,
]

setup(
    name='m2at_mm',
    version=read_version(),
    description='M2AT adversarial training for any mmpretrain classifier',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    author='The m2at_mm contributors',
    project_urls={
        'Paper of M2AT': 'https://arxiv.org/abs/2302.08066',
        'mmpretrain': 'https://github.com/open-mmlab/mmpretrain',
    },
    license='Apache-2.0',
    license_files=['LICENSE', 'NOTICE'],
    keywords='adversarial training, robustness, image classification',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    packages=find_packages(include=['m2at_mm', 'm2at_mm.*']),
    package_data={
        'm2at_mm': ['py.typed'],
        'm2at_mm.reporting': ['templates/*'],
    },
    include_package_data=False,
    zip_safe=False,
    python_requires='>=3.10',
    # torch and torchvision in one list: pip then picks a matching pair.
    install_requires=[
        'torch>=2.1',
        'torchvision',
        'mmengine>=0.10.6,<1',  # older ones fail beside a recent transformers
        'mmpretrain>=1.2',
        'mmcv-lite>=2.0,<2.4',  # provides `mmcv`; the full one works, too
        # mmengine imports pkg_resources, older ones fail on Python 3.12
        'setuptools>=66.1,<81',
        'numpy',
    ],
    extras_require={
        'attacks': ATTACKS,
        'eval': EVAL,
        'export': EXPORT,
        'demo': DEMO,
        'report': REPORT,
        'docs': DOCS,
        'test': TEST,
        'dev': [*TEST, 'pre-commit', 'pre-commit-hooks'],
    },
    cmdclass={'build_py': BuildPyWithMim},
)
