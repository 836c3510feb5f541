"""The steps of the workflows, one module for each subject."""
