"""A classifier and its results in forms that need no mmpretrain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.utils import digit_version
from torch import Tensor, nn

from m2at_mm.attacks.logits import at_entrance
from m2at_mm.checks import check_choice
from m2at_mm.files import write_whole
from m2at_mm.model_wrappers.heads import classifier_logits

#: What the author of a claim fills in.
CLAIM_FIELDS = ('link', 'name', 'authors', 'venue', 'architecture')
# What a converted model's logits may differ by, of the largest logit, where
# its precision is no lower.
_TOLERANCE = 1e-4


class PlainClassifier(nn.Module):
    """Logits of images in [0, 1], with the normalisation inside.

    The mmpretrain classifier is shared, not copied. ``mean`` and ``std`` are
    on the 0-255 scale, shape (C, 1, 1), by default 0 and 1: as in mmpretrain,
    the network then takes images in 0-255.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        classifier: nn.Module,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        super().__init__()
        one = torch.ones(1, 1, 1)
        self.register_buffer('mean', (0 * one if mean is None else mean) / 255)
        self.register_buffer('std', (one if std is None else std) / 255)
        self.model = classifier
        self.eval()

    @classmethod
    def of(cls, wrapper: Any) -> PlainClassifier:
        """Share an ``AdversarialClassifier``'s classifier, in eval mode."""
        preprocessor = wrapper.data_preprocessor
        statistics = (getattr(preprocessor, n, None) for n in ('mean', 'std'))
        return cls(wrapper.classifier, *statistics)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (N, K), of images in [0, 1], shape (N, C, H, W)."""
        normalised = (at_entrance(self, images) - self.mean) / self.std
        entered = at_entrance(self.model, normalised)
        return classifier_logits(self.model, entered)


def export_state_dict(
    model: PlainClassifier, images: Tensor, path: Path
) -> None:
    """Save the weights with ``mean`` and ``std``, on images' scale [0, 1].

    The classifier's own keys get the prefix ``model.``. The images are not
    used, as other exports use them.
    """
    weights = {f'model.{k}': v for k, v in model.model.state_dict().items()}
    content = dict(mean=model.mean, std=model.std, **weights)
    write_whole(path, lambda file: torch.save(content, file))


def export_program(model: PlainClassifier, images: Tensor, path: Path) -> None:
    """Save with ``torch.export``; ``torch.export.load(path).module()`` runs.

    The images are examples in [0, 1], at least 2, shape (N, C, H, W); N stays
    free.

    Raises:
        ValueError: The path has another suffix than ``.pt2``.
        RuntimeError: The saved model's logits differ, or torch is older than
            2.2.
    """
    _check_format(path, '.pt2', '2.2')
    batches = ({0: torch.export.Dim('batch')},)
    program = torch.export.export(model, (images,), dynamic_shapes=batches)

    def write(file: Path) -> None:
        with file.open('wb') as stream:  # by its name it needs the suffix
            torch.export.save(program, stream)

    write_whole(path, write)
    _compare(model, images, torch.export.load(str(path)).module(), path)


def export_onnx(model: PlainClassifier, images: Tensor, path: Path) -> None:
    """Save as ONNX, and compare the logits by onnxruntime.

    All is as in :func:`export_program`, but the suffix is ``.onnx`` and torch
    at least 2.6; the input is named ``images``, the output ``logits``.

    Raises:
        ImportError: The packages of the extra ``export`` are missing.
    """
    _check_format(path, '.onnx', '2.6')
    try:
        import onnxruntime
        import onnxscript  # noqa: F401, torch's exporter is built on it
    except ImportError as error:
        raise ImportError(
            'ONNX needs the packages onnx, onnxscript and onnxruntime: '
            "pip install 'm2at_mm[export]'"
        ) from error
    options: dict[str, Any] = dict(dynamo=True, verbose=False)
    options['dynamic_shapes'] = ({0: torch.export.Dim('batch')},)
    options |= dict(input_names=['images'], output_names=['logits'])
    program = torch.onnx.export(model, (images,), **options)
    assert program is not None
    write_whole(path, lambda file: program.save(str(file)))
    cpu = ['CPUExecutionProvider']
    session = onnxruntime.InferenceSession(str(path), providers=cpu)

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {'images': images.numpy()})
        return torch.from_numpy(logits)

    _compare(model, images, run, path)


def _check_format(path: Path, suffix: str, needed: str) -> None:
    if path.suffix != suffix:
        told = f'{path} must end in {suffix}, the suffix of this format'
        raise ValueError(told)
    if digit_version(torch.__version__) < digit_version(needed):
        raise RuntimeError(
            f'this format needs torch >= {needed}, but {torch.__version__} is '
            'installed: upgrade it, or export with --format state-dict'
        )


@torch.no_grad()
def _compare(model: nn.Module, images: Tensor, saved: Any, path: Path) -> None:
    expected = model(images)
    difference = (expected - saved(images)).abs().max() / expected.abs().max()
    tolerance = max(_TOLERANCE, 8 * torch.finfo(expected.dtype).eps)
    if not difference <= tolerance:
        raise RuntimeError(
            f'{path}: the logits differ by {difference:.2g} of the largest, '
            f'more than {tolerance:g}: do not use this file'
        )
    print(f'{path}: logits agree to {difference:.2g} of the largest')


def make_claim(
    results: dict[str, Any], dataset: str, **about: str
) -> dict[str, Any]:
    """The JSON of a model in RobustBench's ``model_info``.

    The results are those of ``tools/test.py``, with AutoAttack, on a dataset
    like ``'cifar10'``. What of :data:`CLAIM_FIELDS` is missing is left empty.
    Accuracies are strings in per cent. ``num_samples`` and ``alarms`` stand
    besides RobustBench's fields, to tell a claim on a subset.

    Raises:
        ValueError: The results are without AutoAttack, or a field is unknown.
    """
    if 'autoattack' not in results['attacks']:
        raise ValueError(
            f'the results have {list(results["attacks"])}, but a claim needs '
            'autoattack: run tools/test.py --attacks autoattack'
        )
    for name in about:
        check_choice('field', name, CLAIM_FIELDS)
    norm, eps = (results['threat_model'][name] for name in ('norm', 'eps'))
    return dict(
        dict.fromkeys(CLAIM_FIELDS, '') | about,
        additional_data=False,
        number_forward_passes=1,
        dataset=dataset,
        norm={'linf': 'Linf', 'l2': 'L2'}[norm],
        eps=f'{eps:g}' if norm == 'l2' else f'{eps * 255:.4g}/255',
        clean_acc=f'{results["clean"]:.2f}',
        reported='',
        autoattack_acc=f'{results["attacks"]["autoattack"]:.2f}',
        num_samples=results['num_samples'],
        alarms=[alarm['name'] for alarm in results['alarms']],
    )
