"""The pipeline: purifier, then classifier, as run on a device."""
