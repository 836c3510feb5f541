"""What is trained on: snapshots, what is held out, checks, and pictures or features computed once."""
