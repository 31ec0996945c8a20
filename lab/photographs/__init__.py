"""Photographs: the crops that a purifier is trained on and judged by, and how it does in front of many classes."""
