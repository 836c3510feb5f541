"""Answer from the live release."""
