"""Labels of images, with the history of who set them."""
