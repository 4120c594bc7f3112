"""History: is a speedup still what it was? Compare two runs, keep many, and tell other tools."""
