"""What clusters are asked to do besides launching: kill instances, grow."""
