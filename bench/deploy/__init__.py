"""What a single logit costs in use: memory, switching from class to class, time of an image."""
