"""`Scheduler`: all that one may ask of the living scheduler (being written by the lead)."""
