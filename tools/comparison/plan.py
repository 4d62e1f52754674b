"""What a comparison trains and evaluates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from m2at_mm.checks import check_choice
from m2at_mm.evaluation.named_attacks import check_attack_names

_OPTIONAL = {'seeds', 'common', 'evaluation', 'checkpoint', 'between'}
_RUN_OPTIONAL = {'recipe', 'options', 'dial', 'seeds'}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method, at one point of its curve, with one seed.

    ``config`` is a file or ``mmpretrain::...``, to which ``recipe`` is
    applied, then ``options`` as by ``--cfg-options``.
    """

    name: str
    curve: str | None
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
        runs (dict[str, dict]): By method: ``config``, and maybe ``recipe``,
            ``options`` and ``seeds``. ``dial`` makes it a curve: by option as
            many values as there are points, like ``{'model.method.beta':
            [1, 3, 6]}``; the options are turned together.
        seeds (Sequence[int]): Each method is trained with each.
        common (dict): Options of all runs, the budget above all.
        evaluation (dict): ``attacks``, maybe ``num_samples``, and ``eps``,
            the radius, which is the training's if it is left out.
        checkpoint (str): ``'best'`` on the validation split, or ``'last'``.
        between (tuple[float, float], optional): Clean accuracies, in per
            cent, between which the curves' hypervolumes are taken. Defaults
            to the lowest and highest one of all curves.
    """

    runs: dict[str, dict[str, Any]]
    seeds: Sequence[int] = (0, 1)
    common: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(
        default_factory=lambda: dict(attacks=['pgd20', 'cw20'])
    )
    checkpoint: str = 'best'
    between: tuple[float, float] | None = None

    def __iter__(self) -> Iterator[Run]:
        """All methods with the first seed, then with the second, ..."""
        runs = self.runs.items()
        seeds = {name: run.get('seeds', self.seeds) for name, run in runs}
        for place in range(max(map(len, seeds.values()))):
            for name, run in runs:
                for point, turned in _points(name, run.get('dial')):
                    if place < len(seeds[name]):
                        yield Run(
                            name=point,
                            curve=name if turned else None,
                            seed=seeds[name][place],
                            config=run['config'],
                            recipe=run.get('recipe'),
                            options=self.common
                            | run.get('options', {})
                            | turned,
                        )


def _points(
    name: str, dial: dict[str, Sequence[Any]] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and options of each point; without a dial there is one."""
    if not dial:
        yield name, {}
        return
    for values in zip(*dial.values(), strict=True):
        # The name of a folder.
        shown = str(values[0]).replace('/', '-')
        yield f'{name}_{shown}', dict(zip(dial, values))


def load_plan(path: Path) -> Plan:
    """Read a plan, a text config of MMEngine.

    Raises:
        ValueError: A key is unknown or missing, or an attack is unknown.
    """
    content = Config.fromfile(path).to_dict()
    # Without the plan's own abbreviations.
    content = {k: v for k, v in content.items() if not k.startswith('_')}
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
        lengths = {len(values) for values in run.get('dial', {}).values()}
        if len(lengths) > 1:
            raise ValueError(
                f'dial of run {name!r} of {path} has lists of {lengths} '
                'values: give each option one value a point'
            )
    plan = Plan(**content)
    check_choice('checkpoint', plan.checkpoint, ('best', 'last'))
    check_attack_names(plan.evaluation['attacks'], has_surrogate=False)
    return plan
