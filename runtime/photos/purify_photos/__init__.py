"""The bundle `photos`, compressed. Data only."""
