"""Match: assign waiting jobs to hosts, and keep room for the heads of the queue."""
