"""purify-bench: the speed of a bundle's engines, precisions and batches on this device, side by side."""
