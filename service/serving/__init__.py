"""Answer searches from the active release."""
