"""Signs that a robust accuracy is overestimated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from m2at_mm.evaluation import comparisons
from m2at_mm.evaluation.outcomes import Outcomes

# Largest change of logits that rounding explains, relative to their length:
# as in AutoAttack's check for random models.
_SAME_OUTPUT = 1e-4
# Points above chance that may withstand a radius at which nothing should.
_NEAR_CHANCE = 10.0

# Figures that were not measured, as on images without any gradient, are taken
# for those of a sound model.
_AGREEING = 'gradient_agreement gradient_correlation realised_at_image'
_AGREEING += ' realised_at_random realised_on_path realised_long'
_AGREEING += ' gradient_noise_correlation'
_ABSENT = 'misled misled_images unchanged_outputs memory_difference'
_ABSENT += ' memory_gradient drift'
_UNSUSPICIOUS = dict.fromkeys(_AGREEING.split(), 1.0)
_UNSUSPICIOUS |= dict.fromkeys(_ABSENT.split(), 0.0)


@dataclass(frozen=True)
class Alarm:
    """A sign of gradient masking: what was found, in numbers, and means."""

    name: str
    message: str


@dataclass(frozen=True)
class Sign:
    """One kind of alarm, whose message has names of figures in braces.

    They are those of the probes, unless a measure of
    :mod:`m2at_mm.evaluation.comparisons` is given.
    """

    name: str
    condition: Callable[[Any], bool]
    message: str
    measure: comparisons.Measure | None = None


def find_alarms(
    outcomes: Sequence[Outcomes], probes: dict[str, Any]
) -> list[Alarm]:
    """Find signs that the attacks are weaker than they seem.

    See arXiv 1802.00420 (section 3.1) and arXiv 1902.06705 (section 4). The
    outcomes are one per radius; the probes are figures of
    :func:`m2at_mm.evaluation.probes.probe`, empty if nothing was probed.
    """
    probed = [_derived(_UNSUSPICIOUS | probes)] if probes else []
    return [
        Alarm(sign.name, sign.message.format(**figures))
        for sign in SIGNS
        for figures in (sign.measure(outcomes) if sign.measure else probed)
        if sign.condition(SimpleNamespace(**figures))
    ]


def _derived(probes: dict[str, Any]) -> dict[str, Any]:
    """Figures of the probes, each also as ``NAME_percent``."""
    return dict(
        probes,
        chance=100 / probes['num_classes'],
        withstood=100 * probes['large_eps_correct'] / probes['num_images'],
        large_radius=255 * probes['large_eps'],
        **{f'{name}_percent': 100 * probes[name] for name in probes},
    )


#: Every alarm, in the order in which they are told.
SIGNS = (
    Sign(
        'randomised_outputs',
        lambda f: f.pass_difference > _SAME_OUTPUT,
        'two forward passes on the same images differ by '
        '{pass_difference:.2g} of the logits: attack a randomised model by '
        'its average gradient: --attacks autoattack-rand',
    ),
    Sign(
        'outputs_depend_on_the_batch',
        lambda f: f.batch_difference > _SAME_OUTPUT >= f.pass_difference,
        "an image's logits change by {batch_difference:.2g} with its batch: "
        'is a normalisation layer in training mode?',
    ),
    Sign(
        'probabilities_for_logits',
        lambda f: f.probabilities,
        'the outputs are probabilities, and losses on logits saturate on '
        'them: let the model return logits',
    ),
    Sign(
        'vanishing_gradients',
        lambda f: f.vanishing_gradients >= 0.1,
        'on {vanishing_gradients_percent:.0f} % of {num_images} images the '
        'gradient is zero or too small by a factor of 1000 to reach a '
        'decision boundary: attacks that follow it fail, and accuracy under '
        'them means nothing: try --attacks square',
    ),
    Sign(
        'non_finite_gradients',
        lambda f: f.non_finite_gradients >= 0.02,
        'on {non_finite_gradients_percent:.0f} % of {num_images} images the '
        'gradient is infinite or not a number: it was taken as zero, and '
        'attacks that follow it fail: try --attacks square',
    ),
    Sign(
        'wrong_gradients',
        lambda f: (
            f.pass_difference <= _SAME_OUTPUT
            and not (
                0.5 <= f.gradient_agreement <= 2
                and f.gradient_correlation >= 0.7
            )
        ),
        'along the gradient the margin changes by {gradient_agreement:.2g} '
        'times what the gradient says (median of {num_images} images), and in '
        'random directions the two correlate by {gradient_correlation:.2g}: '
        'it is not, or not the whole, gradient of this model: try --attacks '
        'square, and --transfer from a network without that part',
    ),
    Sign(
        'misleading_gradients',
        # Of sound networks no image is misled, undefended ones included, and
        # the long step realises half of the change on the most curved ones.
        lambda f: (
            f.pass_difference <= _SAME_OUTPUT
            and (
                (f.misled >= 0.03 and f.misled_images >= 2)
                or f.realised_long < 0.2
            )
        ),
        'a step of 0.25/255 up the gradient raises the margin by less than '
        '0.3 times what the gradient says on {misled_percent:.0f} % of images '
        '(in the median {realised_at_image:.2f} times at the image, '
        '{realised_at_random:.2f} at a random point of the ball, '
        '{realised_on_path:.2f} on the path of PGD; a step of 1/255 '
        '{realised_long:.2f}; gradients 1/255 apart have a cosine of '
        '{gradient_noise_correlation:.2f}): attacks that follow such '
        'gradients fail; try --attacks square, and --transfer from a network '
        'of the same data without the defence',
    ),
    Sign(
        'answers_depend_on_earlier_queries',
        lambda f: (
            max(f.pass_difference, f.batch_difference) <= _SAME_OUTPUT
            and (
                f.memory_difference > 10 * _SAME_OUTPUT
                or f.memory_gradient >= 0.02
                or f.drift > 0.02
            )
        ),
        'the attacked model and a copy that was never asked differ by '
        '{memory_difference:.2g} of the logits and in the gradients of '
        '{memory_gradient_percent:.0f} % of {num_images} images, and margins '
        'changed by {drift:.2g} of their median during the evaluation: the '
        'model keeps a memory of queries, and an attacker would ask fresh '
        'copies: evaluate it without its memory',
    ),
    Sign(
        'unchanged_outputs',
        lambda f: f.unchanged_outputs >= max(0.02, 2 / f.num_images),
        'on {unchanged_outputs_percent:.0f} % of {num_images} images the '
        'logits at a random point of the ball are those of the image, bit by '
        'bit: answers are kept, rounded or cut off, and have no useful '
        'gradient: try --attacks square, and the model without that part',
    ),
    Sign(
        'saturated_loss',
        lambda f: f.saturated_loss >= 0.6,
        'on {saturated_loss_percent:.0f} % of {num_images} images the '
        'cross-entropy is exactly 0 in float32, so large are the logits '
        '(median margin {median_margin:.3g}): it loses its gradient; only '
        'attacks on the margin (cw20, apgd-t) count',
    ),
    Sign(
        'large_eps_withstood',
        lambda f: f.withstood > f.chance + _NEAR_CHANCE,
        '{withstood:.1f} % of {num_images} images withstand PGD-20 at a '
        'radius of {large_radius:.4g}/255, where nothing can (chance is '
        '{chance:.1f} %): the attack fails: try --attacks square autoattack',
    ),
    Sign(
        'clean_accuracy_at_chance',
        # On fewer images chance cannot be told from a bad model.
        lambda f: f.total >= 50 and f.accuracy <= f.chance,
        'clean accuracy is {accuracy:.1f} % on {total} images, no better than '
        'chance ({chance:.1f} %): the checkpoint, its preprocessing or the '
        'order of its classes does not belong to this config',
        comparisons.clean,
    ),
    Sign(
        'margin_below_cross_entropy',
        # Undefended and PGD-trained networks stay within 5 points, networks
        # that only fool the cross-entropy are off by 10 to 30.
        lambda f: f.gained >= 8,
        'accuracy is {left_by_stronger:.1f} % under {stronger} but '
        '{left_by_weaker:.1f} % under {weaker}, the best attack on the '
        'cross-entropy, {gained:.1f} points apart on {total} images: the '
        'cross-entropy attack fails, its figure means nothing{at}',
        comparisons.losses,
    ),
    Sign(
        'more_steps_help',
        lambda f: f.gained >= 5,
        '{stronger} is {gained:.1f} points below {weaker} '
        '({left_by_stronger:.1f} % against {left_by_weaker:.1f} %): more '
        'steps and restarts would find more: try --attacks pgd100 '
        'autoattack{at}',
        comparisons.steps,
    ),
    Sign(
        'one_step_beats_many',
        lambda f: f.gained >= 1,
        '{stronger} is {gained:.1f} points below {weaker}: following the '
        'gradient in small steps leads astray: try --attacks autoattack '
        'square{at}',
        comparisons.single_step,
    ),
    Sign(
        'black_box_beats_white_box',
        lambda f: (
            f.gained >= (1 if f.on_margin else 5)
            or (f.on_margin and f.of_withstanding >= 15)
        ),
        '{attack}, which does not trust the gradient, fools {gained:.1f} % of '
        'all images ({of_withstanding:.0f} % of those that are left) where '
        'every gradient attack ({white}) fails: the gradients mislead: try '
        '--attacks square autoattack{at}',
        comparisons.black_box,
    ),
    Sign(
        'attack_makes_no_progress',
        lambda f: f.stuck >= max(3, 0.05 * f.withstanding),
        '{attack} does not raise the loss of {stuck} of the {withstanding} '
        'images that withstand it: it fails on them, so look at the gradient '
        'there, and try an attack on another loss, or square{at}',
        comparisons.progress,
    ),
    Sign(
        'attacks_disagree',
        lambda f: f.fewer >= max(5, 0.08 * f.total),
        '{first} and {second} each fool at least {fewer} of {total} images '
        'that the other does not: both get lost on a part of the images: try '
        '--attacks autoattack and square{at}',
        comparisons.disagreement,
    ),
    Sign(
        'outside_threat_model',
        lambda f: f.count > 0,
        '{count} adversarial images of {attack} are outside ball or box: the '
        'attack does more than the threat model allows{at}',
        comparisons.outside,
    ),
    Sign(
        'larger_eps_does_not_help',
        lambda f: f.after > f.chance + _NEAR_CHANCE,
        'accuracy under {attack} rises or stays as the radius grows: '
        '{before:.1f} % at {small}, {after:.1f} % at {large}. Try square, '
        'which needs no gradient, and autoattack',
        comparisons.radii,
    ),
)
