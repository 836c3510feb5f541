"""Try Akin without data of your own."""
