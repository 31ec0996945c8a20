"""A user's folder or zip of images: its files, how they are laid out, and the labels that come beside them."""
