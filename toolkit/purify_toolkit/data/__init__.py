"""Training data: datasets, image folders, batches and augmentation."""
