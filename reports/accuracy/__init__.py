"""Reports of accuracy runs: Tables 1 and 2, Fig. 2, learning curves, and what a terminal shows."""
