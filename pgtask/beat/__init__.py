"""The process that fires schedules."""
