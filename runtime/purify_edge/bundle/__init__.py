"""The bundle: the folder that holds models, golden set and manifest; its reader, its writer and its schema."""
