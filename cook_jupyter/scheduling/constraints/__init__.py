"""What jobs demand of their hosts besides room: pools' defaults, rewriting, demands of single jobs."""
