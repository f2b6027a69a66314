"""Match: waiting jobs onto hosts, with room kept for the heads of the queue."""
