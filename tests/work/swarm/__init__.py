"""Workers by the dozen, in processes that are killed."""
