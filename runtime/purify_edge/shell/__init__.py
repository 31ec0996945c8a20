"""The edge of the command line, which every command shares."""
