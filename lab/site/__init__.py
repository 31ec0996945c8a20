"""What the documentation's site has beside the pages of docs/: the reference, and what `Try it` runs."""
