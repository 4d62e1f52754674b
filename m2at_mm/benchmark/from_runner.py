"""What is timed, from a Runner: its own methods, and rivals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from mmengine.config import Config
from mmengine.runner import Runner

from m2at_mm.benchmark.contestants import Contestant, build_rivals
from m2at_mm.evaluation.samples import Samples
from m2at_mm.model_wrappers.distributed import bare_model
from m2at_mm.recipes import config_root
from m2at_mm.registry import TASK_UTILS

#: The name of the config's own iteration.
OURS = 'm2at_mm'


def rivals_of(names: Sequence[str], runner: Runner) -> dict[str, Contestant]:
    """The rivals, with a batch of the training data.

    Args:
        names (Sequence[str]): Some of
            :data:`~m2at_mm.benchmark.contestants.RIVALS`.
        runner (Runner): Its model is adversarial. On several processes each
            has rivals of its own, which exchange nothing.

    Returns:
        dict[str, Contestant]: By name.

    Raises:
        ValueError: The train attack has no steps to compare.
    """
    model = bare_model(runner.model)
    loader = runner.train_dataloader
    samples = Samples(
        loader.dataset, model.data_preprocessor, loader.collate_fn
    )
    first = list(range(loader.batch_size))
    ((images, labels),) = samples.batches([first])
    return build_rivals(
        names,
        model,
        images,
        labels,
        lambda: runner.optim_wrapper.optim_context(model),
    )


def switches_of(
    recipes: Sequence[str], runner: Runner
) -> dict[str, Callable[[], None]]:
    """By name, what makes the model train with a method.

    Args:
        recipes (Sequence[str]): Names of recipes, whose method and attack
            are taken, with the steps of the config's attack.
        runner (Runner): Its model changes when a result is called.

    Returns:
        dict[str, Callable]: The config's own method, :data:`OURS`, first.
    """
    model = bare_model(runner.model)
    pairs = {OURS: (model.method, model.train_attack)}
    for name in recipes:
        recipe = Config.fromfile(
            str(config_root() / '_base_' / 'recipes' / f'{name}.py')
        ).model
        attack = dict(recipe.train_attack)
        if attack['type'] == 'm2at_mm.PGD':
            for setting in ('steps', 'step_size', 'compile_mode'):
                attack[setting] = getattr(model.train_attack, setting)
        pairs[f'{OURS} {name}'] = (
            TASK_UTILS.build(recipe.method),
            TASK_UTILS.build(attack),
        )

    def switch(name: str) -> None:
        model.method, model.train_attack = pairs[name]

    return {name: partial(switch, name) for name in pairs}
