"""The whole paper in one command: its parts, a budget of time spread over them, and its claims held to the result."""
