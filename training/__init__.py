"""Train an embedding on labelled images: data, losses, the training loop, evaluation, gate and report."""
