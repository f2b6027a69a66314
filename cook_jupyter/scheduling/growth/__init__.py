"""Growth: for which jobs a cluster that can grow is asked for hosts, and which cluster."""
