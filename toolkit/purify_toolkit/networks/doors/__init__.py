"""The ways in for a classifier that exists: one module for each library or kind of file."""
