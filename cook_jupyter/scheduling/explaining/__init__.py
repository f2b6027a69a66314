"""Why jobs wait, and which users are starved, hungry or satisfied."""
