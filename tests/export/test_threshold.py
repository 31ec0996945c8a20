import pytest
from purify_export.threshold import threshold_of

from purify_export.export import Networks
from purify_export.images import images_of
from purify_toolkit.runs.folder import RunFolder, Samples


def part(samples: Samples, count: int) -> Samples:
    return Samples(samples.images[:count], samples.labels[:count], samples.indices[:count])


def test_a_threshold_says_what_set_it(networks: Networks, shipped: RunFolder) -> None:
    images, told = images_of(shipped, None), list[str]()
    found = threshold_of(
        networks.classifier, networks.purifier, part(images.others, 120), source=images.source, tell=told.append
    )
    assert found is not None
    assert (found.n, found.false_positive_rate, found.images) == (120, 0.01, "test images that the golden set leaves")
    assert 0.5 < found.threshold < 5  # of so few images it is the largest score
    assert told == []


@pytest.mark.parametrize("count", [0, 98])
def test_of_too_few_images_there_is_none_and_it_is_told(networks: Networks, shipped: RunFolder, count: int) -> None:
    few, told = part(images_of(shipped, None).others, count), list[str]()
    assert threshold_of(networks.classifier, networks.purifier, few, source="", tell=told.append) is None
    assert told == [
        f"no suspicion score: {count} clean images do not set a threshold for 1% false positives, 99 or more do; "
        "--data names a folder with more"
    ]
