"""Training data: snapshots, splits, checks, caches of decoded images and features, and augmentation."""
