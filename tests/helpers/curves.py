"""A run's curves as TensorBoard reads them."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.history import EVENTS

Points = dict[str, list[tuple[int, float]]]


def points(run: RunFolder, stage: str) -> Points:
    """Each curve of a stage: epochs and values."""
    events = EventAccumulator(str(run.path / EVENTS / stage))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
