from pathlib import Path

from digits_runner import small_digits_config
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from m2at_mm.hooks import SafeCheckpointHook
from m2at_mm.recipes import RecipeRunner, apply_recipe


def test_a_config_trains_by_the_recipe_that_it_names(tmp_path: Path) -> None:
    cfg = small_digits_config(tmp_path, 8, 4)
    stock = {key: cfg[key] for key in cfg if key != 'default_hooks'}
    stock |= dict(model=cfg.model.classifier, model_wrapper_cfg=None)
    named = Config(
        dict(stock, runner_type='m2at_mm.RecipeRunner', recipe='m2at')
    )
    runner = RUNNERS.build(named)
    assert type(runner) is RecipeRunner
    expected = Runner.from_cfg(apply_recipe(Config(stock), 'm2at')).cfg
    assert runner.cfg.model == expected.model
    assert runner.cfg.default_hooks == expected.default_hooks
    assert any(isinstance(hook, SafeCheckpointHook) for hook in runner.hooks)
    # What it dumps is a config like any other.
    assert not {'recipe', 'runner_type'} & runner.cfg.keys()
