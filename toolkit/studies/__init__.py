"""For maintainers, from a checkout: the experiments behind docs/results. Not part of the wheel."""
