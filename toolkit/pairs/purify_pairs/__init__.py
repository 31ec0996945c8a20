"""The pre-trained pairs: one run folder each, without its teachers. Data only."""
