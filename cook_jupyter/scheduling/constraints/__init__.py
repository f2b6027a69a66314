"""Constraints of jobs on their hosts: those of classes of jobs, of pools, and of single jobs."""
