"""What is trained on: snapshots, what is held out, checks, and images or features computed once."""
