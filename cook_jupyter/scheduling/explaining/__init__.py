"""Why jobs wait, and how satisfied users are."""
