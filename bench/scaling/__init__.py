"""One data family at many class counts: how good one logit stays, and what it saves, as classes grow."""
