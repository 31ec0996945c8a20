"""The losses of teachers and student, each formula in one place.

Notation: `x` a clean image, `x'` an adversarial example of it, both in [0, 1]; `A` the adversarially
trained teacher, `T` the normally trained teacher, `S` the student, `f` the frozen classifier's logits;
`|.|` the mean absolute value over all pixels of a batch.

From Koo, Chae and Lee 2023 (doi:10.3390/app132011313), as its abstract has it, come these: purifier and
teachers are convolutional autoencoders; one teacher is trained adversarially, one normally; their
ensemble is distilled into the student, which is to denoise and to restore; the classifier is not touched.

The abstract does not fix the choices below. They are our interpretation, and recipes can change the weights:

- the distance between images is L1, which keeps edges sharper than L2;
- the ensemble is a weighted mean of the teachers' images, and the normal teacher sees the *clean* image
  also where the student sees the adversarial one: it then shows what a restored original looks like,
  while the adversarial teacher shows what can be recovered from the attacked pixels;
- the student sees adversarial and clean images in a stated proportion, so that it learns both abilities;
- beside imitating the ensemble it is drawn to the clean image itself (`reconstruction`), and to images
  that the classifier reads as it reads the clean one (`classifier_guidance`). The latter follows the
  logits guidance of Liao et al. 2018 (HGD, arXiv 1712.02976), with a Kullback-Leibler divergence:
  what is left of an attack after a denoiser that minimises pixel error alone is amplified by the classifier.
- the adversarial teacher is given the same guidance, the normal teacher none;
- two further terms are optional: HGD's guidance by the classifier's features (`feature_guidance`), and the structural
  similarity to the clean image (`structure`).

The student's loss is the sum of the terms below, each under a weight of the recipe's table `[distillation]`. A recipe
may leave a teacher out: `adversarial_teacher_weight` 1 leaves the adversarial one alone, 0 the normal one, and
`imitation` 0 none, which makes the student a plain convolutional autoencoder trained to denoise. It may give images
that are not attacked another mean (`clean_adversarial_teacher_weight`), so that each teacher is imitated where it is at
home; put the clean image itself in the normal teacher's place (`second_teacher = "original"`); or give that teacher a
bottleneck (table `[normal_teacher]`), without which it hands its input on.

An adaptive recipe (table `[adaptive]`) puts in the place of `x'` an example `x_w` that is made anew at each step
through student and classifier, and adds `labels * CE(f(S(x_w)), y)`, the cross-entropy of the true class `y`: training
through the frozen classifier as in AdvAE (Li et al. 2019, arXiv 1905.10729), on the min-max problem of Madry et al.
2018 (arXiv 1706.06083).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 7
"""Side of the windows of `structure_loss`, in pixels."""


def reconstruction_loss(output: Tensor, clean: Tensor) -> Tensor:
    """Return `|output - x|`, both `[N, C, H, W]`; scalar."""
    return F.l1_loss(output, clean)


def ensemble(adversarial_teacher: Tensor, second_teacher: Tensor, *, adversarial_weight: Tensor | float) -> Tensor:
    """Return `E = a A(x') + (1 - a) T(x)`, `[N, C, H, W]`; `a` is `adversarial_weight`, one or `[N, 1, 1, 1]`."""
    return torch.lerp(second_teacher, adversarial_teacher, adversarial_weight)


def imitation_loss(student: Tensor, teachers: Tensor) -> Tensor:
    """Return `|S(x') - E|`, the distillation term; both `[N, C, H, W]`; scalar."""
    return F.l1_loss(student, teachers)


def guidance_loss(purified: Tensor, clean: Tensor) -> Tensor:
    """Return `KL(softmax f(x) || softmax f(output))`, mean over the batch; scalar.

    Args:
        purified: logits `[N, K]` of the purified images; gradients flow through the frozen classifier to the image.
        clean: logits `[N, K]` of the clean ones.
    """
    logs, target = F.log_softmax(purified, dim=1), F.log_softmax(clean, dim=1)
    return F.kl_div(logs, target, reduction="batchmean", log_target=True)


def feature_loss(purified: Tensor, clean: Tensor) -> Tensor:
    """Return `|g(output) - g(x)| / |g(x)|`, `g` the classifier's features `[N, D]`: HGD's, at any scale."""
    return F.l1_loss(purified, clean) / clean.abs().mean().clamp_min(torch.finfo(clean.dtype).tiny)


def structure_loss(output: Tensor, clean: Tensor) -> Tensor:
    """Return `1 - SSIM(output, x)`, images `[N, C, H, W]` of at least 7 x 7; scalar in [0, 2].

    Structural similarity after Wang, Bovik, Sheikh and Simoncelli 2004 (doi:10.1109/TIP.2003.819861), with windows of
    7 x 7 pixels of equal weight, and its constants for images in [0, 1].
    """
    luminance, contrast = 0.01**2, 0.03**2
    mean_a, mean_b = _local_mean(output), _local_mean(clean)
    variances = _local_mean(output**2) - mean_a**2 + _local_mean(clean**2) - mean_b**2
    covariance = _local_mean(output * clean) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + luminance) * (2 * covariance + contrast)
    return 1 - (similarity / ((mean_a**2 + mean_b**2 + luminance) * (variances + contrast))).mean()


def _local_mean(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, WINDOW, stride=1)
