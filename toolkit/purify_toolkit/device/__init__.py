"""The device of a training: its processes, its precision, and what identifies it."""
