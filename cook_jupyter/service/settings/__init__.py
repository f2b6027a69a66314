"""Settings of the operator: their types and defaults, how a file is read, and the home directory."""
