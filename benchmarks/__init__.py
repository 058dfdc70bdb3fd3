"""What is claimed about speed and size, and the commands that show it: `headrace bench` is one store's, these are many's."""
