"""The wrapper that makes any mmpretrain classifier train adversarially."""

from collections.abc import Callable
from typing import Any

import torch
from mmengine.model import BaseModel
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from m2at_mm.attacks import Attack, ThreatModel, differentiable_checkpoints
from m2at_mm.attacks.logits import at_entrance, predicted_labels
from m2at_mm.attacks.losses import hard_labels
from m2at_mm.checks import check_choice, check_number
from m2at_mm.data_preprocessors import take_over_preprocessing
from m2at_mm.methods import Method, one_hot
from m2at_mm.model_wrappers import heads
from m2at_mm.model_wrappers.transparent_keys import make_transparent
from m2at_mm.registry import MODELS, TASK_UTILS
from m2at_mm.structures import BatchLabels, stack_targets

Labels = list[DataSample] | BatchLabels | None

_PGD10 = dict(type='m2at_mm.PGD', steps=10)  # of a quarter of the radius


@MODELS.register_module()
class AdversarialClassifier(BaseModel):
    """An mmpretrain classifier that trains and validates under attack.

    The state dict's keys are the plain classifier's in both directions, and
    attributes that the wrapper lacks are the classifier's. Images are RGB in
    [0, 1], of shape (N, C, H, W).

    Args:
        classifier (dict): Config of any single-label mmpretrain classifier.
        threat_model (dict, optional): Arguments of
            :class:`m2at_mm.attacks.ThreatModel`; None is linf, 8/255.
        method (dict, optional): Training method; None is M2AT.
        train_attack (dict, optional): Attack that the method trains on; None
            is PGD with 10 steps of a quarter of the radius, if it needs one.
        eval_attacks (dict[str, dict], optional): Attacks by name that
            ``predict`` also runs, for :class:`m2at_mm.RobustAccuracy`; an
            empty dict for none. None is the same PGD as ``pgd10``.
        label_smoothing (float): Share of each training target that is spread
            evenly over all classes, in [0, 1), not of what the attack is
            given. Up to 0.2 is usual (arXiv 2010.00467).
        data_preprocessor (dict, optional): None takes the classifier's.
        init_cfg (dict, optional): See MMEngine's ``BaseModule``.

    Raises:
        ValueError: The head cannot be attacked, or the settings make soft
            targets, and method or loss take labels only.
    """

    # For the type checker, which takes a module's children for tensors.
    classifier: Any
    data_preprocessor: Any
    #: ``LossReplay.record`` while an optimiser wrapper needs the loss twice.
    loss_replay: Callable[[Tensor, Tensor], dict[str, Tensor]] | None = None

    def __init__(
        self,
        classifier: dict[str, Any],
        threat_model: dict[str, Any] | None = None,
        method: dict[str, Any] | None = None,
        train_attack: dict[str, Any] | None = None,
        eval_attacks: dict[str, dict[str, Any]] | None = None,
        label_smoothing: float = 0.0,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        check_number('label_smoothing', label_smoothing, 0, below=1)
        classifier, settings = take_over_preprocessing(
            classifier, data_preprocessor
        )
        super().__init__(data_preprocessor=settings, init_cfg=init_cfg)
        self.threat_model = ThreatModel(**(threat_model or {}))
        self.label_smoothing = label_smoothing
        build = TASK_UTILS.build
        self.method: Method = build(method or dict(type='m2at_mm.M2AT'))
        self.train_attack: Attack | None = None
        if train_attack or self.method.needs_attack:
            self.train_attack = build(train_attack or _PGD10)
        if eval_attacks is None:
            eval_attacks = dict(pgd10=_PGD10)
        for name in {'clean', 'worst'} & eval_attacks.keys():
            raise ValueError(
                f'eval_attacks has the name {name!r}, which is a figure of '
                'its own in the results: give the attack another name'
            )
        self.eval_attacks: dict[str, Attack] = {
            name: build(attack) for name, attack in eval_attacks.items()
        }
        self.classifier = MMPRETRAIN_MODELS.build(classifier)
        make_transparent(self, 'classifier')
        self._fit_to_classifier()

    def _fit_to_classifier(self) -> None:
        head: Any = getattr(self.classifier, 'head', None)
        reason = heads.why_unsupported(type(head))
        if reason is not None:
            raise ValueError(
                f'head={type(head).__name__!r} {reason}: choose a classifier '
                'of single-label images'
            )
        if getattr(head, 'cal_acc', False):
            # It refuses soft labels, and the method logs the accuracy.
            head.cal_acc = False
        num_classes = heads.count_classes(self.classifier)
        if num_classes is not None:
            # The logits decide where a base config's data settings differ.
            self.data_preprocessor.num_classes = num_classes
        if heads.needs_plain_layout(self.classifier):
            self.data_preprocessor.memory_format = torch.contiguous_format
        self._accepted = heads.accepted_targets(
            self.classifier, self.num_classes
        )
        heads.check_soft_targets(self, self._accepted)

    @property
    def num_classes(self) -> int | None:
        """The number of classes, None if neither head nor data tell it."""
        known: int | None = self.data_preprocessor.num_classes
        return known

    def forward(
        self, inputs: Tensor, data_samples: Labels = None, mode: str = 'tensor'
    ) -> Tensor | dict[str, Tensor] | list[DataSample]:
        """Logits, (N, K), or what :meth:`loss` or :meth:`predict` give."""
        check_choice('mode', mode, ('tensor', 'loss', 'predict'))
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        inputs = self._network_input(inputs)
        return heads.classifier_logits(self.classifier, inputs)

    def loss(self, inputs: Tensor, data_samples: Labels) -> dict[str, Tensor]:
        """The method's losses of a batch, see :meth:`Method.loss`."""
        target = stack_targets(data_samples, soft=True)
        if target is None:
            raise ValueError(
                'data_samples have neither gt_label nor gt_score: training '
                'needs a labelled dataset'
            )
        target = heads.trainable_target(
            target.to(inputs.device), self._accepted, self.method
        )
        with differentiable_checkpoints():
            if self.loss_replay is not None:
                return self.loss_replay(inputs, target)
            attack = self.attack_in_training
            return self.method.loss(self, attack, inputs, target)

    def supervised_loss(
        self, images: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """As :func:`heads.losses_and_logits`, with images in [0, 1]."""
        share = self.label_smoothing
        if share or target.ndim == 2 or not self._accepted.labels:
            # Some binary losses take probabilities only.
            target = one_hot(target, self.num_classes)
            if share:
                target = (1 - share) * target + share / target.shape[1]
            target = at_entrance(self, target)
        inputs = self._network_input(images)
        return heads.losses_and_logits(self.classifier, inputs, target)

    def predict(
        self, inputs: Tensor, data_samples: Labels = None
    ) -> list[DataSample]:
        """Predict clean images, and attacked ones if there are labels.

        With ``eval_attacks`` a sample also has ``adversarial_pred_labels``, a
        dict from the attack's name to the label predicted under it.

        Raises:
            TypeError: The labels are ``BatchLabels``.
        """
        if isinstance(data_samples, BatchLabels):
            raise TypeError(
                'data_samples=BatchLabels are for training: set '
                'whole_batches=False in the datasets of val_dataloader and '
                'test_dataloader'
            )
        images, samples = self._network_input(inputs), data_samples
        if len(images) == 1:
            # Networks that squeeze their features need two, see logits_of().
            images = torch.cat([images] * 2)
            samples = None if samples is None else [*samples] * 2
        found: list[DataSample] = self.classifier.predict(images, samples)
        found = found[: len(inputs)]
        target = stack_targets(data_samples, soft=False)
        if self.eval_attacks and target is not None:
            target = hard_labels(target.to(inputs.device))
            attacks, under = self.eval_attacks, self._labels_under_attack
            labels = [under(one, inputs, target) for one in attacks.values()]
            for sample, *those in zip(found, *labels):
                predicted = dict(zip(self.eval_attacks, those))
                sample.set_field(predicted, 'adversarial_pred_labels')
        return found

    def extract_feat(self, inputs: Tensor, **kwargs: Any) -> Any:
        """The classifier's features of images in [0, 1]."""
        inputs = self._network_input(inputs)
        return self.classifier.extract_feat(inputs, **kwargs)

    def _network_input(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the classifier takes them, normalised."""
        network, normalize = self.classifier, self.data_preprocessor.normalize
        return at_entrance(network, normalize(at_entrance(network, images)))

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """A parameter's layer and the number of layers, for layer decay."""
        name = param_name.removeprefix('classifier.')
        depth: tuple[int, int] = self.classifier.get_layer_depth(name)
        return depth

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'classifier':
                raise
            return getattr(self.classifier, name)

    # With MMEngine's ``compile`` the training step is compiled around it: an
    # attack compiled as part of the step is built anew again and again.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attack_in_training(
        self, model: Any, images: Tensor, target: Tensor
    ) -> Tensor:
        """The train attack under the threat model, as a method calls it."""
        assert self.train_attack is not None
        # The preprocessor made sure of the range; to look again, the host
        # would wait for a GPU.
        return self.train_attack(
            model, images, target, self.threat_model, check_range=False
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _labels_under_attack(
        self, attack: Attack, images: Tensor, target: Tensor
    ) -> list[int]:
        adversarial = attack(
            self, images, target, self.threat_model, stop_when_fooled=True
        )
        with torch.no_grad():
            found: list[int] = predicted_labels(self(adversarial)).tolist()
        return found
