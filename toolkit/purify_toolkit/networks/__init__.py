"""Networks: purifiers, classifiers, and a user's own classifier."""
