"""Attacks on a model of pixels, each a function of images and labels; their sizes are in pixel units."""
