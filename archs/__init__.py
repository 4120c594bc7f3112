"""Networks, and how their top layer is found and swapped."""
