"""Programs with a supervisor that are killed at the worst moment, and whether anything is left of their backends."""
