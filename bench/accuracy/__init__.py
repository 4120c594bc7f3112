"""Accuracy: train with every loss of the paper and compare the single logit with all of them (Tables 1 and 2)."""
