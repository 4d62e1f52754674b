"""What a comparison trains and evaluates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from m2at_mm.checks import check_choice
from m2at_mm.evaluation.named_attacks import check_attack_names

_OPTIONAL = {'seeds', 'common', 'evaluation', 'checkpoint'}
_RUN_OPTIONAL = {'recipe', 'options'}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method with one seed.

    ``config`` is a file or ``mmpretrain::...``, to which ``recipe`` is
    applied, then ``options`` as by ``--cfg-options``.
    """

    name: str
    seed: int
    config: str
    recipe: str | None = None
    options: dict[str, Any]

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return f'{self.name}_seed{self.seed}'


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A comparison.

    Attributes:
        runs (dict[str, dict]): By method: ``config``, and maybe ``recipe`` and
            ``options``.
        seeds (Sequence[int]): Each method is trained with each.
        common (dict): Options of all runs, the budget above all.
        evaluation (dict): ``attacks``, and maybe ``num_samples``.
        checkpoint (str): ``'best'`` on the validation split, or ``'last'``.
    """

    runs: dict[str, dict[str, Any]]
    seeds: Sequence[int] = (0, 1)
    common: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(
        default_factory=lambda: dict(attacks=['pgd20', 'cw20'])
    )
    checkpoint: str = 'best'

    def __iter__(self) -> Iterator[Run]:
        """Each method with the first seed, then with the second, ..."""
        for seed in self.seeds:
            for name, run in self.runs.items():
                options = {**self.common, **run.get('options', {})}
                yield Run(name=name, seed=seed, **{**run, 'options': options})


def load_plan(path: Path) -> Plan:
    """Read a plan, a text config of MMEngine.

    Raises:
        ValueError: A key is unknown or missing, or an attack is unknown.
    """
    content = {
        key: value
        for key, value in Config.fromfile(path).to_dict().items()
        if not key.startswith('_')  # the plan's own abbreviations
    }
    if set(content) - _OPTIONAL != {'runs'}:
        raise ValueError(
            f'{path} has {sorted(content)}: a plan needs runs, and may have '
            f'{sorted(_OPTIONAL)}'
        )
    for name, run in content['runs'].items():
        if set(run) - _RUN_OPTIONAL != {'config'}:
            raise ValueError(
                f'run {name!r} of {path} has {sorted(run)}: it needs config, '
                f'and may have {sorted(_RUN_OPTIONAL)}'
            )
    plan = Plan(**content)
    check_choice('checkpoint', plan.checkpoint, ('best', 'last'))
    check_attack_names(plan.evaluation['attacks'], has_surrogate=False)
    return plan
