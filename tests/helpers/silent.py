"""Progress that nobody sees."""


class Silent:
    """Takes what a training or an evaluation tells of itself, and says nothing."""

    def epoch(self, stage: str, epoch: int, epochs: int, units: int) -> None:
        pass

    def advance(self, units: int, text: str) -> None:
        pass
