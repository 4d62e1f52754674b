"""The wrapper that makes any mmpretrain classifier train adversarially."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseModel
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from m2at_mm.attacks import Attack, ThreatModel, differentiable_checkpoints
from m2at_mm.attacks.logits import at_entrance, predicted_labels
from m2at_mm.attacks.losses import hard_labels
from m2at_mm.methods import Method
from m2at_mm.methods.masking import one_hot
from m2at_mm.model_wrappers.heads import (
    classifier_logits,
    classifier_losses,
    count_classes,
    squeezes,
    why_unsupported,
)
from m2at_mm.model_wrappers.loss_replay import LossReplay
from m2at_mm.model_wrappers.loss_targets import accepted_targets, loss_modules
from m2at_mm.model_wrappers.preprocessing import (
    needs_plain_layout,
    take_over_preprocessing,
)
from m2at_mm.model_wrappers.recorded_logits import recorded_logits
from m2at_mm.model_wrappers.transparent_keys import make_transparent
from m2at_mm.registry import MODELS, TASK_UTILS
from m2at_mm.structures import BatchLabels


@MODELS.register_module()
class AdversarialClassifier(BaseModel):
    """An mmpretrain classifier that trains and validates under attack.

    The classifier keeps its own head, loss, preprocessing settings and
    checkpoint format: the state dict's keys are the plain classifier's in
    both directions, and attributes that the wrapper lacks are the
    classifier's.

    Args:
        classifier (dict): Config of any single-label mmpretrain classifier.
        threat_model (dict): Arguments of :class:`m2at_mm.attacks.ThreatModel`.
        method (dict): Config of a training method, like
            ``dict(type='m2at_mm.M2AT')``.
        train_attack (dict, optional): Config of the attack that the method
            trains on, like ``dict(type='m2at_mm.PGD')``. Defaults to None,
            for a method without one.
        eval_attacks (dict[str, dict], optional): Attacks by name that
            ``predict`` also runs, for :class:`m2at_mm.RobustAccuracy`.
            Defaults to None.
        label_smoothing (float): Share of each training target that is spread
            evenly over all classes, in [0, 1). It changes what is learnt, not
            what the attack is given. Up to 0.2 is usual (arXiv 2010.00467).
            Defaults to 0.0.
        data_preprocessor (dict, optional): Preprocessing settings. Defaults
            to None, those of the classifier's config; the Runner passes the
            config's top-level ones where the classifier has none.
        init_cfg (dict, optional): As for any MMEngine module. Defaults to
            None.

    Raises:
        ValueError: The method needs a train attack and there is none, method
            or loss cannot be trained towards the soft targets that the
            settings make, or an argument of a part is wrong.

    Example:
        >>> model = dict(
        ...     type='m2at_mm.AdversarialClassifier',
        ...     classifier=dict(type='ImageClassifier', ...),
        ...     threat_model=dict(norm='linf', eps='8/255'),
        ...     train_attack=dict(
        ...         type='m2at_mm.PGD', steps=10, step_size='2/255'),
        ...     method=dict(type='m2at_mm.M2AT'),
        ...     eval_attacks=dict(
        ...         pgd10=dict(
        ...             type='m2at_mm.PGD', steps=10, step_size='2/255')))
    """

    # For the type checker, which takes a module's children for tensors.
    classifier: Any
    data_preprocessor: Any
    #: Set while an optimiser wrapper needs the loss a second time.
    loss_replay: LossReplay | None = None

    def __init__(
        self,
        classifier: dict[str, Any],
        threat_model: dict[str, Any],
        method: dict[str, Any],
        train_attack: dict[str, Any] | None = None,
        eval_attacks: dict[str, dict[str, Any]] | None = None,
        label_smoothing: float = 0.0,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        threat = ThreatModel(**threat_model)
        classifier, settings = take_over_preprocessing(
            classifier, data_preprocessor
        )
        super().__init__(data_preprocessor=settings, init_cfg=init_cfg)
        self.threat_model = threat
        self.method: Method = TASK_UTILS.build(method)
        self.train_attack: Attack | None = (
            TASK_UTILS.build(train_attack) if train_attack else None
        )
        if self.method.needs_attack and self.train_attack is None:
            raise ValueError(
                f'train_attack is None, but method={method["type"]!r} trains '
                "on an attack: set train_attack=dict(type='m2at_mm.PGD')"
            )
        taken = {'clean', 'worst'} & set(eval_attacks or ())
        if taken:
            raise ValueError(
                f'eval_attacks has the name {min(taken)!r}, which is a figure '
                'of its own in the results: give the attack another name'
            )
        self.eval_attacks: dict[str, Attack] = {
            name: TASK_UTILS.build(attack)
            for name, attack in (eval_attacks or {}).items()
        }
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f'label_smoothing={label_smoothing!r} must be at least 0 and '
                'below 1'
            )
        self.label_smoothing = label_smoothing
        self.classifier = MMPRETRAIN_MODELS.build(classifier)
        make_transparent(self, 'classifier')
        head = getattr(self.classifier, 'head', None)
        reason = why_unsupported(type(head))
        if reason is not None:
            raise ValueError(
                f'head={type(head).__name__!r} {reason}: choose a classifier '
                'of single-label images'
            )
        if head is not None and getattr(head, 'cal_acc', False):
            # It refuses soft labels, and the method logs the accuracy.
            head.cal_acc = False
        num_classes = count_classes(self.classifier)
        if num_classes is not None:
            # The logits decide where a base config's data settings differ.
            self.data_preprocessor.num_classes = num_classes
        if needs_plain_layout(self.classifier):
            self.data_preprocessor.memory_format = torch.contiguous_format
        self._accepted = accepted_targets(self.classifier, self.num_classes)
        self._check_soft_targets()

    def _check_soft_targets(self) -> None:
        """Refuse soft targets that method or loss can't be trained towards."""
        name = type(self.method).__name__
        mixes = getattr(self.data_preprocessor, 'batch_augments', None)
        sources = {
            f'method={name!r}': self.method.changes_labels,
            f'label_smoothing={self.label_smoothing}': self.label_smoothing,
            'batch_augments': mixes is not None,
        }
        soft = [source for source, is_soft in sources.items() if is_soft]
        if self.method.needs_hard_labels and mixes is not None:
            raise ValueError(
                f'method={name!r} needs hard labels, but '
                'batch_augments mix them: remove batch_augments from '
                'data_preprocessor (train_cfg.augments in the stock config), '
                'or choose another method'
            )
        if soft and not self._accepted.scores:
            losses = [
                type(one).__name__ for one in loss_modules(self.classifier)
            ]
            raise ValueError(
                f'{" and ".join(soft)} give soft targets, but '
                f'loss={", ".join(losses)} takes labels only: leave them out '
                '(M2AT keeps labels with clean_label=1, perturbed_label=1 and '
                "pairing='self'; PGDAT, TRADES and MART always do), or give a "
                'loss that takes probabilities, like CrossEntropyLoss'
            )

    @property
    def num_classes(self) -> int | None:
        """The number of classes, None if neither head nor data tell it."""
        known: int | None = self.data_preprocessor.num_classes
        return known

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[DataSample] | BatchLabels | None = None,
        mode: str = 'tensor',
    ) -> Tensor | dict[str, Tensor] | list[DataSample]:
        """One of the three modes of an MMEngine model.

        Args:
            inputs (Tensor): Images, RGB in [0, 1], shape (N, C, H, W).
            data_samples (list[DataSample] | BatchLabels, optional):
                Annotations, needed for ``'loss'``. Defaults to None.
            mode (str): ``'tensor'`` for logits, ``'loss'`` or ``'predict'``.
                Defaults to ``'tensor'``.

        Returns:
            Tensor | dict[str, Tensor] | list[DataSample]: Logits of shape
            (N, K), losses, or predictions.

        Raises:
            ValueError: ``mode`` is none of the three.
        """
        if mode == 'tensor':
            return classifier_logits(
                self.classifier, self._network_input(inputs)
            )
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        raise ValueError(
            f"mode={mode!r} is unknown: choose 'tensor', 'loss' or 'predict'"
        )

    def loss(
        self,
        inputs: Tensor,
        data_samples: list[DataSample] | BatchLabels | None,
    ) -> dict[str, Tensor]:
        """The method's losses of a batch.

        Args:
            inputs (Tensor): Images, RGB in [0, 1], shape (N, C, H, W).
            data_samples (list[DataSample] | BatchLabels): With ``gt_label``,
                or with ``gt_score`` after batch augmentations.

        Returns:
            dict[str, Tensor]: See :meth:`m2at_mm.methods.Method.loss`.

        Raises:
            ValueError: A sample has no label, or it has probabilities where
                method or loss takes labels only.
        """
        target = _stack_targets(data_samples, soft=True)
        if target is None:
            raise ValueError(
                'data_samples have neither gt_label nor gt_score: training '
                'needs a labelled dataset'
            )
        target = self._trainable_target(target.to(inputs.device))
        with differentiable_checkpoints():
            if self.loss_replay is not None:
                return self.loss_replay.record(inputs, target)
            return self.method.loss(
                self, self.attack_in_training, inputs, target
            )

    def supervised_loss(
        self, images: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The classifier's own losses on given images and targets.

        Args:
            images (Tensor): RGB in [0, 1], shape (N, C, H, W).
            target (Tensor): Labels, int64 of shape (N, ), or probabilities
                of shape (N, K).

        Returns:
            tuple: The losses by name, and the logits of the same forward
            pass, of shape (N, K): those of the attacked function, also where
            the loss adds a margin to them. None if the head is not called.
        """
        if self.label_smoothing:
            scores = one_hot(target, self.num_classes)
            even = self.label_smoothing / scores.shape[1]
            target = (1 - self.label_smoothing) * scores + even
        if target.ndim == 2 or not self._accepted.labels:
            # Some binary losses take probabilities only.
            target = at_entrance(self, one_hot(target, self.num_classes))
        inputs, num = self._network_input(images), len(images)
        if num == 1 and squeezes(self.classifier, inputs):
            # Twice the same image has the same mean loss.
            inputs, target = torch.cat([inputs] * 2), torch.cat([target] * 2)
        with recorded_logits(self.classifier) as seen:
            losses = classifier_losses(
                self.classifier, inputs, _to_samples(target)
            )
        return losses, seen[0][:num] if seen else None

    def predict(
        self,
        inputs: Tensor,
        data_samples: list[DataSample] | BatchLabels | None = None,
    ) -> list[DataSample]:
        """Predict clean images, and attacked ones if there are labels.

        Args:
            inputs (Tensor): Images, RGB in [0, 1], shape (N, C, H, W).
            data_samples (list[DataSample], optional): Annotations. Defaults
                to None: nothing is attacked.

        Returns:
            list[DataSample]: The classifier's predictions on the clean
            images. With ``eval_attacks`` each also has
            ``adversarial_pred_labels``, a dict from the attack's name to the
            label predicted on its adversarial image.

        Raises:
            TypeError: The labels are ``BatchLabels``, which hold no
                predictions.
        """
        if isinstance(data_samples, BatchLabels):
            raise TypeError(
                'data_samples=BatchLabels are for training: set '
                'whole_batches=False in the datasets of val_dataloader and '
                'test_dataloader'
            )
        samples = self._predict_clean(inputs, data_samples)
        target = _stack_targets(data_samples, soft=False)
        if self.eval_attacks and target is not None:
            target = hard_labels(target.to(inputs.device))
            labels = {
                name: self._labels_under_attack(attack, inputs, target)
                for name, attack in self.eval_attacks.items()
            }
            for index, sample in enumerate(samples):
                sample.set_field(
                    {name: found[index] for name, found in labels.items()},
                    'adversarial_pred_labels',
                )
        return samples

    def _predict_clean(
        self, inputs: Tensor, data_samples: list[DataSample] | None
    ) -> list[DataSample]:
        images = self._network_input(inputs)
        samples: list[DataSample]
        if len(images) > 1:
            samples = self.classifier.predict(images, data_samples)
            return samples
        # Networks that squeeze their features need two, see logits_of().
        twice = None if data_samples is None else [*data_samples] * 2
        samples = self.classifier.predict(torch.cat([images] * 2), twice)
        return samples[: len(images)]

    def extract_feat(self, inputs: Tensor, **kwargs: Any) -> Any:
        """The classifier's features of images in [0, 1].

        Args:
            inputs (Tensor): Images, RGB in [0, 1], shape (N, C, H, W).
            **kwargs: See the classifier's ``extract_feat``.

        Returns:
            Any: What the classifier's ``extract_feat`` gives.
        """
        return self.classifier.extract_feat(
            self._network_input(inputs), **kwargs
        )

    def _network_input(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the classifier takes them, normalised."""
        images = at_entrance(self.classifier, images)
        return at_entrance(
            self.classifier, self.data_preprocessor.normalize(images)
        )

    def _trainable_target(self, target: Tensor) -> Tensor:
        """Labels of shape (N, ), or probabilities of shape (N, K) as floats.

        Integers of shape (N, K) are one-hot labels, as ``to_onehot`` of
        mmpretrain's preprocessor gives them.

        Raises:
            ValueError: Probabilities where only labels will do.
        """
        hard = self.method.needs_hard_labels or not self._accepted.scores
        if target.ndim == 2 and not target.is_floating_point():
            return target.argmax(1) if hard else target.float()
        if target.ndim == 2 and hard:
            raise ValueError(
                'the batch has probabilities of shape '
                f'{tuple(target.shape)} as targets, but the method '
                f'{type(self.method).__name__} or the loss takes labels only: '
                'give gt_label in place of gt_score, and mix no images'
            )
        return target

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """Depth of a parameter, for layer-wise learning rates.

        Args:
            param_name (str): Its name here or in the classifier.

        Returns:
            tuple[int, int]: The parameter's layer, and how many there are.
        """
        depth: tuple[int, int] = self.classifier.get_layer_depth(
            param_name.removeprefix('classifier.')
        )
        return depth

    def __getattr__(self, name: str) -> Any:
        """What the wrapper lacks is the classifier's."""
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
        """The train attack under the threat model, as a method calls it.

        Args:
            model: What is attacked.
            images (Tensor): RGB in [0, 1], shape (N, C, H, W).
            target (Tensor): Labels, int64 of shape (N, ), or probabilities
                of shape (N, K).

        Returns:
            Tensor: Adversarial images in [0, 1], shape (N, C, H, W).
        """
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
            logits = self(adversarial)
        labels: list[int] = predicted_labels(logits).tolist()
        return labels


def _to_samples(target: Tensor) -> list[DataSample]:
    """The annotations that a classifier's loss takes.

    Soft targets come with a label for heads that need one, as the margin of
    ArcFace does.
    """
    samples = []
    # Cut up by one operation each: one for each image would keep the host
    # busier than a GPU.
    for label in hard_labels(target).view(-1, 1).unbind():
        samples.append(DataSample())
        samples[-1].set_field(label, 'gt_label', dtype=Tensor)
    if target.ndim == 2:
        for sample, score in zip(samples, target.unbind()):
            sample.set_field(score, 'gt_score', dtype=Tensor)
    return samples


def _stack_targets(
    samples: list[DataSample] | BatchLabels | None, soft: bool
) -> Tensor | None:
    """The targets of a batch, None if it has none.

    Args:
        samples (list[DataSample] | BatchLabels, optional): Annotations.
        soft (bool): Whether ``gt_score``, of shape (N, K), goes before
            ``gt_label``, of shape (N, ).
    """
    if isinstance(samples, BatchLabels):
        return samples.target
    if not samples:
        return None
    fields = ('gt_score', 'gt_label') if soft else ('gt_label', 'gt_score')
    for field in fields:
        if all(field in sample for sample in samples):
            values = [sample.get(field) for sample in samples]
            join = torch.cat if field == 'gt_label' else torch.stack
            return join(values)
    return None
