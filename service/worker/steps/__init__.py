"""The steps of the workflows, one module a subject."""
