"""Speed: the pipeline beside PyTorch and beside engines that are used by hand, with the bars of `make bench`."""
