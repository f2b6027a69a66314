"""Growth: the jobs for which clusters should grow, and the choice of the cluster."""
