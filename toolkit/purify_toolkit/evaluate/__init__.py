"""Accuracy on test images, clean and attacked: `threats` says what can be run, `measure` runs it, `gates` doubts it."""
