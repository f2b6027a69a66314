"""Actions on clusters besides launches: kills, growth, and the secrets with which instances report progress."""
