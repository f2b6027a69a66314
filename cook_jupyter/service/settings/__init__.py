"""What an operator may set: the types, their defaults, and how they are read from a file."""
