"""The demo's Square attack, which needs no PyTorch, beside that of pyautoattack."""

import torch

from helpers.shipped import generator, open_shipped
from purify_edge.demo.square import square_attack
from purify_edge.pipeline.pipeline import Pipeline
from purify_toolkit.attacks.libraries import Square

IMAGES, EPSILON, QUERIES = 40, 8 / 255, 100


def test_it_breaks_as_many_images_as_the_library_does() -> None:
    shipped = open_shipped()
    images, labels = shipped.images[:IMAGES], shipped.labels[:IMAGES]
    with torch.no_grad():
        attacked = Square(epsilon=EPSILON, queries=QUERIES)(shipped.classifier, images, labels, generator=generator())
    theirs = int(shipped.right(shipped.classifier, attacked).sum())
    with Pipeline.load("fashion-mnist", engine="onnxruntime", precision="fp32") as pipeline:
        found = [
            square_attack(
                pipeline.planned.classify,
                image.numpy(),
                label=int(label),
                epsilon=EPSILON,
                queries=QUERIES,
                seconds=60,
                seed=seed,
            )
            for seed, (image, label) in enumerate(zip(images, labels, strict=True))
        ]
    ours = sum(not one.succeeded for one in found)
    assert theirs < 0.7 * IMAGES  # it breaks a good part of them
    assert abs(ours - theirs) <= 0.15 * IMAGES, (ours, theirs)
