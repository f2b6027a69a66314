"""Actions on clusters besides launches: kills, growth, and secrets with which instances report progress."""
