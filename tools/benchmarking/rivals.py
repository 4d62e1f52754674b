"""The training iterations that ours is timed beside."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor

from m2at_mm.attacks import Attack
from m2at_mm.evaluation.samples import Samples
from m2at_mm.model_wrappers.distributed import bare_model
from m2at_mm.recipes import config_root
from m2at_mm.registry import TASK_UTILS

Batch = tuple[Tensor, Tensor]
#: The name of the config's own iteration.
OURS = 'm2at_mm'


class Rival:
    """A training iteration on a batch that is already on the device.

    Calling it attacks the batch and trains for one step. It trains a copy of
    the network, so that contestants share no state.

    Args:
        model (AdversarialClassifier): Copied; its threat model gives eps.
        images (Tensor): RGB in [0, 1], shape (N, C, H, W).
        labels (Tensor): int64, shape (N, ).
        attack (PGD, optional): Gives steps and step size. Defaults to None,
            the train attack.
        precision (Callable): Makes the context of the passes, like autocast,
            where :attr:`tuned`. Defaults to float32.
    """

    #: Whether batches are in the layout of our preprocessor, and passes in
    #: the precision of the optimiser wrapper.
    tuned = False

    def __init__(
        self,
        model: Any,
        images: Tensor,
        labels: Tensor,
        attack: Any = None,
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        attack = attack or model.train_attack
        check_attack(attack)
        self.precision = precision if self.tuned else nullcontext
        self.layout = torch.contiguous_format
        if self.tuned:
            self.layout = model.data_preprocessor.memory_format
        self.load(images, labels)
        self.network = copy.deepcopy(model).train()
        usual: Any = dict(lr=0.1, momentum=0.9, weight_decay=5e-4)
        self.optimizer = torch.optim.SGD(self.network.parameters(), **usual)
        self.steps = attack.steps
        self.eps = model.threat_model.eps
        self.step_size = attack.length_of_step(model.threat_model)

    def __call__(self) -> None:
        self.train_step(self.attack())

    def load(self, images: Tensor, labels: Tensor) -> None:
        """Continue with another batch."""
        self.images = images.detach().clone(memory_format=self.layout)
        self.labels = labels

    def attack(self) -> Tensor:
        """Adversarial images of the batch, shape (N, C, H, W)."""
        raise NotImplementedError

    def loss(self, images: Tensor) -> Tensor:
        """Cross-entropy of images in [0, 1], shape (N, C, H, W)."""
        with self.precision():
            return F.cross_entropy(self.network(images), self.labels)

    def train_step(self, images: Tensor) -> None:
        """One step of SGD on the cross-entropy."""
        self.optimizer.zero_grad()
        self.loss(images).backward()
        self.optimizer.step()


class PlainLoop(Rival):
    """PGD adversarial training as written by hand in plain PyTorch.

    The network stays in train mode, and each attack step computes the
    gradients of all weights along with that of the images. Batches are
    contiguous and in float32.
    """

    def attack(self) -> Tensor:
        images, eps = self.images, self.eps
        delta = torch.empty_like(images).uniform_(-eps, eps)
        delta = (images + delta).clamp(0, 1) - images
        delta.requires_grad_(True)
        for _ in range(self.steps):
            self.loss(images + delta).backward()
            assert delta.grad is not None
            step = self.step_size * delta.grad.detach().sign()
            moved = (delta.detach() + step).clamp(-eps, eps)
            delta.data = (images + moved).clamp(0, 1) - images
            delta.grad.zero_()
        return (images + delta.detach()).clamp(0, 1)


class Script(PlainLoop):
    """The plain loop with the two further passes of many public scripts.

    Those of ``train_cifar.py`` of arXiv 2002.11569: a forward pass after the
    attack, which chooses among restarts, also where there is only one; and
    one on the clean images after the training step, for the log.
    """

    def attack(self) -> Tensor:
        adversarial = super().attack()
        logits = self.network(adversarial)
        losses = F.cross_entropy(logits, self.labels, reduction='none')
        worse = losses.detach() >= 0
        return torch.where(worse.view(-1, 1, 1, 1), adversarial, self.images)

    def train_step(self, images: Tensor) -> None:
        super().train_step(images)
        logits = self.network(self.images)
        F.cross_entropy(logits, self.labels).item()
        (logits.argmax(1) == self.labels).sum().item()


class Torchattacks(Rival):
    """The PGD of torchattacks, then a training step in contiguous float32."""

    def attack(self) -> Tensor:
        from torchattacks import PGD

        pgd = PGD(self.network, self.eps, self.step_size, self.steps)
        adversarial: Tensor = pgd(self.images, self.labels)
        return adversarial


class Limit(Rival):
    """The passes alone: one for each attack step, and one full step."""

    tuned = True

    def attack(self) -> Tensor:
        self.network.eval().requires_grad_(False)
        images = self.images.detach().requires_grad_(True)
        for _ in range(self.steps):
            torch.autograd.grad(self.loss(images), images)
        self.network.train().requires_grad_(True)
        return self.images


RIVALS: dict[str, type[Rival]] = dict(
    plain=PlainLoop, script=Script, torchattacks=Torchattacks, limit=Limit
)
INSTALLED = [n for n in RIVALS if n != 'torchattacks' or find_spec(n)]


def check_attack(attack: Attack | None) -> None:
    """Raise ValueError where a train attack has no steps to compare."""
    if attack is None or attack.steps is None:
        raise ValueError(
            f'train_attack={type(attack).__name__} has no number '
            "of steps: benchmark a config with dict(type='m2at_mm.PGD')"
        )


def rivals_of(names: Sequence[str], runner: Runner) -> dict[str, Rival]:
    """Some of :data:`RIVALS` by name, with a batch of the training data."""
    # On several processes each has rivals of its own: they exchange nothing.
    model = bare_model(runner.model)
    loader = runner.train_dataloader
    ((images, labels),) = batches_of(model, loader, loader.batch_size)

    def precision() -> Any:  # of the wrapper that is built by then
        return runner.optim_wrapper.optim_context(model)

    problem = dict(model=model, images=images, labels=labels)
    return {k: RIVALS[k](**problem, precision=precision) for k in names}


def batches_of(model: Any, loader: Any, num_images: int) -> list[Batch]:
    """Images, RGB in [0, 1], shape (N, C, H, W), and labels, shape (N, )."""
    how = model.data_preprocessor, loader.collate_fn
    samples = Samples(loader.dataset, *how, num_images)
    parts = torch.arange(num_images).split(loader.batch_size)
    return list(samples.batches([part.tolist() for part in parts]))


def switches_of(
    recipes: Sequence[str], runner: Runner
) -> dict[str, Callable[[], None]]:
    """Functions by name that make the Runner's model train with a method.

    The first is :data:`OURS`, the config's own method. The others take method
    and attack of a recipe, with the steps of the config's attack.
    """
    model = bare_model(runner.model)
    pairs = {OURS: (model.method, model.train_attack)}
    for name in recipes:
        path = config_root() / '_base_' / 'recipes' / f'{name}.py'
        recipe = Config.fromfile(str(path)).model
        attack = dict(recipe.train_attack)
        if attack['type'] == 'm2at_mm.PGD':
            for setting in ('steps', 'step_size', 'compile_mode'):
                attack[setting] = getattr(model.train_attack, setting)
        both = map(TASK_UTILS.build, (recipe.method, attack))
        pairs[f'{OURS} {name}'] = tuple(both)

    def switch(name: str) -> None:
        model.method, model.train_attack = pairs[name]

    return {name: partial(switch, name) for name in pairs}
