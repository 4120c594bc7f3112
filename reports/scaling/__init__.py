"""Reports of a study over class counts: Fig. 4, its tables, and what a terminal shows."""
