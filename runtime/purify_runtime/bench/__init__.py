"""The benchmark: the pipeline beside what one would write by hand, in one run, and the bars that it is to clear."""
