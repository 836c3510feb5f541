"""Keep the evaluations of models and compare them."""
