"""The page: all that runs and a history have to say, in one file that opens without a network."""
