"""What images show, and who said so."""
