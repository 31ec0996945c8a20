"""The toolkit's commands."""
