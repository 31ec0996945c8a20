"""Train and evaluate a purifier: data, networks, attacks, losses, training, evaluation."""
