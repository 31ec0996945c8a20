"""Run the benchmark: `python -m lab.speed BUNDLE`."""

from lab.speed.cli import main

main()
